-- leave.lua: takes a waiter off the queue. If it was its turn, the next is served.
--
-- KEYS: 1 lock, 2 queue, 3 turn
-- ARGV: 1 claim id, 2 channel, 3 manners (turn.lua)
--
-- In a slot that is being moved (turn.lua) it is called twice, with the queue's key
-- alone and with that of the turn. Then nobody is served: all clients look.

local me = ARGV[1] .. ' ' .. ARGV[2]
if not whole then
  if string.match(KEYS[1], ':queue$') then
    redis.call('ZREM', KEYS[1], me)
  elseif string.match(redis.call('GET', KEYS[1]) or '', '^(%S+ %S+) ') == me then
    redis.call('DEL', KEYS[1])
  end
  return 1
end
redis.call('ZREM', KEYS[2], me)
local turn = redis.call('GET', KEYS[3])
if turn and string.match(turn, '^(%S+ %S+) ') == me then
  redis.call('DEL', KEYS[3])
  serve(nil, ARGV[3])
end
return 1
