-- wait.lua: keeps one client's waiters for a lock in its queue, and serves the
-- queue if the lock is free. Watch calls it once, and then the client does, about
-- once a second, for all who wait.
--
-- KEYS: 1 lock, 2 queue, 3 turn
-- ARGV: 1 channel, 2 queue's lifetime ms, 3 manners (turn.lua), then for each waiter
--       its claim id and its place in the queue (us; '' is the end)
-- Returns {now, ms, mine, heard}: the place given to those that asked for the end;
-- in how many ms the lock or the turn runs out; 1 if the queue's head is one of
-- this client's; how many listen on its channel (1 if the server cannot know).

local channel = ARGV[1]
local now = clock()
local lock = redis.call('GET', KEYS[1])
local holder, ms
if lock then
  local token, id, kept = read(lock)
  if not token then
    return redis.error_reply('HASPCORRUPT the value is not a lock record')
  end
  if kept ~= '' and remaining(kept) > 0 then
    holder, ms = id, remaining(kept)
  end
end
local next, left = heir(now, nil)

for i = 4, #ARGV, 2 do
  local waiter = ARGV[i] .. ' ' .. channel
  if ARGV[i] ~= holder and waiter ~= next then
    redis.call('ZADD', KEYS[2], 'NX', ARGV[i + 1] == '' and now or ARGV[i + 1], waiter)
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
return {now, ms, mine, heard}
