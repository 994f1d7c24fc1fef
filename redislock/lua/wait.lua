-- wait.lua: keeps one client's waiters for a lock in its queue, and serves the
-- queue if the lock is free. Watch calls it once, and then the client does, about
-- once a second, for all who wait.
--
-- KEYS: 1 lock, 2 queue, 3 turn
-- ARGV: 1 channel, 2 queue's lifetime ms, 3 manners (turn.lua), then for each waiter
--       its claim id and its place in the queue (us; '' is the end)
-- Returns {end, ms, mine, heard, turn}: the place given to those that asked for the
-- end; in how many ms the lock or the turn runs out; 1 if the queue's head is one of
-- this client's; how many listen on its channel (1 if the server cannot know); whose
-- turn it is, '-' if not one of this client's, '' if nobody's.
--
-- Given the lock's key alone (turn.lua) it only looks: the end is ''; and if the lock
-- is free, ms is -1 and the turn '*', anybody's.

local channel = ARGV[1]
local now = clock()
local lock = redis.call('GET', KEYS[1])
local holder, ms
if lock then
  local token, id, kept = read(lock)
  if not token then
    return redis.error_reply('HASPCORRUPT the value is not a lock record')
  end
  if kept ~= '' then
    ms = remaining(lock, kept)
    holder = ms > 0 and id
  end
end
if not whole then
  return {'', holder and ms or -1, 1, 1, holder and '' or '*'}
end
local next, left = heir(now, nil, ARGV[3])

-- The end is behind the last, also where a clock that was set back puts it before.
local place = now
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
if last and tonumber(last) >= tonumber(now) then
  place = string.format('%.0f', last + 1)
end
for i = 4, #ARGV, 2 do
  local waiter = ARGV[i] .. ' ' .. channel
  if ARGV[i] ~= holder and waiter ~= next then
    redis.call('ZADD', KEYS[2], 'NX', ARGV[i + 1] == '' and place or ARGV[i + 1], waiter)
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])

if not holder then
  if not next then
    next, left = serve(now, ARGV[3])
  end
  ms = left or 0
end
local first = head()
local mine = first and string.match(first, ' (%S+)$') == channel and 1 or 0
local heard = 1
if string.match(ARGV[3], ' 1$') then
  heard = redis.call('PUBSUB', 'NUMSUB', channel)[2]
end
local turn = ''
if next and not holder then
  local id, whose = string.match(next, '^(%S+) (%S+)$')
  turn = whose == channel and id or '-'
end
return {place, ms, mine, heard, turn}
