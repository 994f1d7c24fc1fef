-- raise.lua: lifts the last token to a floor. It does not touch the holder, nor
-- what is known of the last release.
--
-- KEYS: 1 lock
-- ARGV: 1 floor, 2 memory ms

local lock = redis.call('GET', KEYS[1])
local token, id, kept, floor = '0', '', '', '0'
if lock then
  token, id, kept, floor = read(lock)
  if not token then
    return redis.error_reply('HASPCORRUPT the value is not a lock record')
  end
end
if not exceeds(ARGV[1], token) or (kept ~= '' and not exceeds(ARGV[1], floor)) then
  return 1
end
local longer = memory(ARGV[1], clock(), ARGV[2])
if kept == '' then
  redis.call('SET', KEYS[1], id == '' and ARGV[1] or ARGV[1] .. ' ' .. id, 'PX', longer)
  return 1
end
local life = redis.call('PTTL', KEYS[1])
longer = tonumber(longer) > tonumber(kept) and longer or kept
local ttl, rest = string.match(lock, '^%d+ %S+ (%d+) %d+ %d+ (.*)$')
local value = table.concat({token, id, ttl, longer, ARGV[1], rest}, ' ')
if life == -1 then
  redis.call('SET', KEYS[1], value) -- as remaining (record.lua) has it
  return 1
end
redis.call('SET', KEYS[1], value, 'PX', math.max(1, life - kept + longer))
return 1
