-- release.lua: frees the lock if the claim holds it, and gives the next waiter
-- its turn.
--
-- KEYS: 1 lock, 2 queue, 3 turn, 4 the claim's withdrawal, if it is one
-- ARGV: 1 claim id, 2 manners (turn.lua), 3 how the record begins if all is as
--       acquire left it, "<token> <id> <TTL ms> <memory ms> 0 ", or '' if that is
--       not known, 4 memory ms
-- Returns 1 if it is released, now or by an earlier call; 0 if it is not the
-- claim's. A stale lock that nobody has taken over is still the claim's.
-- release-held.lua has read the lock.

-- An attempt that is still on its way must not take what nobody wants any more. Without
-- memory there is no mark, and it is left to its TTL.
if #KEYS > 3 then
  redis.pcall('SET', KEYS[4], '1', 'PX', 60000)
end

if not lock then
  return 0
end
local token, id, kept, floor = read(lock)
if not token then
  return redis.error_reply('HASPCORRUPT the value is not a lock record')
end
if id ~= ARGV[1] then
  return 0
end
if kept == '' then
  return 1
end
if floor ~= '0' and exceeds(floor, token) then
  token = floor
end
if redis.pcall('SET', KEYS[1], token .. ' ' .. id, 'PX', kept).err then
  -- Out of memory, as a rule, and releasing must work then: it becomes stale.
  redis.call('PEXPIRE', KEYS[1], kept)
end
pass(ARGV[2])
return 1
