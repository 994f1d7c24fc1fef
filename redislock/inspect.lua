-- inspect.lua: who holds the lock, and how many wait for it. It writes nothing.
--
-- KEYS: 1 lock, 2 queue, 3 turn
-- Returns {record or '', ms left (0 if free or stale), now us, waiters}.

local lock = redis.call('GET', KEYS[1])
local left = 0
if lock then
  local token, _, kept = read(lock)
  if not token then
    return redis.error_reply('HASPCORRUPT the value is not a lock record')
  end
  if kept ~= '' then
    left = math.max(0, remaining(kept))
  end
end
local waiting = redis.call('ZCARD', KEYS[2]) + redis.call('EXISTS', KEYS[3])
return {lock or '', left, clock(), waiting}
