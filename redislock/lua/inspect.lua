-- inspect.lua: who holds the lock, and how many wait for it. It changes nothing,
-- except an expiry that is too late (record.lua).
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
    left = math.max(0, remaining(lock, kept))
  end
end
local waiting = 0
if whole then
  local turn = redis.call('GET', KEYS[3])
  waiting = redis.call('ZCARD', KEYS[2]) + (turn and string.sub(turn, 1, #ROLL) ~= ROLL and 1 or 0)
end
return {lock or '', left, clock(), waiting}
