-- renew.lua: restarts the TTL of each lock that its claim still holds.
--
-- KEYS: the locks
-- ARGV: 1 TTL ms, then one claim id for each lock
-- Returns for each lock 1 if it is renewed, 0 if it is not the claim's, -1 if
-- something else has its name.

local out = {}
for i, lock in ipairs(KEYS) do
  local value = redis.pcall('GET', lock)
  if not value then
    out[i] = 0
  elseif type(value) == 'table' then
    out[i] = -1
  else
    local id, ttl, kept = string.match(value, '^%d+ ?(%S*) ?(%d*) ?(%d*)')
    if not id then
      out[i] = -1
    elseif id ~= ARGV[i + 1] or kept == '' then
      out[i] = 0
    else
      local life = redis.call('PTTL', lock)
      if life == -1 or life > tonumber(kept) then
        if ttl ~= ARGV[1] then -- record.lua asks for the one in force
          redis.call('SET', lock, (string.gsub(value, '^(%d+ %S+) %d+', '%1 ' .. ARGV[1])))
        end
        out[i] = redis.call('PEXPIRE', lock, ARGV[1] + kept)
      else
        out[i] = 0
      end
    end
  end
end
return out
