-- valuehead.lua: a value without its data.
--
-- KEYS: 1 value
-- Returns "<token> <sequence> <set|deleted> ", or nothing if there is no value.

local value = redis.call('GET', KEYS[1])
if not value then
  return false
end
return string.match(value, '^%d+ %d+ %l+ ') or redis.error_reply('HASPCORRUPT what is beside the lock is not a value')
