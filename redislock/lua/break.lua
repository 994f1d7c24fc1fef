-- break.lua: frees the lock if its holder has this token, and tells the holder.
--
-- KEYS: 1 lock, 2 queue, 3 turn
-- ARGV: 1 token, 2 manners (turn.lua)
-- Returns 1 if it is broken, 0 if nobody holds it, {record, ms} if another does.

local lock = redis.call('GET', KEYS[1])
if not lock then
  return 0
end
local token, id, kept, floor = read(lock)
if not token then
  return redis.error_reply('HASPCORRUPT the value is not a lock record')
end
if kept == '' then
  return 0
end
if token ~= ARGV[1] then
  local left = remaining(lock, kept)
  return left > 0 and {lock, left} or 0
end
if exceeds(floor, token) then
  token = floor
end
if redis.pcall('SET', KEYS[1], token, 'PX', kept).err then
  redis.call('PEXPIRE', KEYS[1], kept) -- out of memory: it becomes stale
end
redis.pcall('PUBLISH', string.match(lock, '^%d+ %S+ %d+ %d+ %d+ %d+ (%S+)'), 'lost ' .. id .. ' ' .. KEYS[1])
pass(ARGV[2])
return 1
