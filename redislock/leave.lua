-- leave.lua: takes a waiter off the queue. If it was its turn, the next is served.
--
-- KEYS: 1 lock, 2 queue, 3 turn
-- ARGV: 1 claim id, 2 channel, 3 manners (turn.lua)

local me = ARGV[1] .. ' ' .. ARGV[2]
redis.call('ZREM', KEYS[2], me)
local turn = redis.call('GET', KEYS[3])
if turn and string.match(turn, '^(%S+ %S+) ') == me then
  redis.call('DEL', KEYS[3])
  serve(nil, ARGV[3])
end
return 1
