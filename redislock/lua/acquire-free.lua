-- acquire-free.lua: acquire's shortcut for a lock that is plainly free: no record
-- or that of a release, nobody waits, the claim is not withdrawn, no floor is asked for, and the clock is past
-- the last token. It stands in front of everything else, so that the functions
-- that only the other cases need are not even made. What it does is what
-- acquire.lua, which takes over in all other cases, would do too.

local lock = redis.call('GET', KEYS[1])
local last = lock and string.match(lock, '^(%d+) ?[%w_-]*$')
if (last or not lock) and ARGV[4] == '0' and (#KEYS == 1 or redis.call('EXISTS', KEYS[2], KEYS[3], KEYS[4]) == 0) then
  local t = redis.call('TIME')
  local now = t[1] .. string.sub('00000' .. t[2], -6)
  if not last or #now > #last or #now == #last and now > last then
    redis.call('SET', KEYS[1], now .. ' ' .. ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. now .. ' ' .. ARGV[5], 'PX', ARGV[3])
    return now
  end
end

