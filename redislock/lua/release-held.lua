-- release-held.lua: release's shortcut for the record as acquire wrote it, with
-- nobody waiting. It stands in front of everything else, as acquire-free.lua does;
-- release.lua takes over in all other cases.

local lock = redis.call('GET', KEYS[1])
if lock and ARGV[3] ~= '' and string.sub(lock, 1, #ARGV[3]) == ARGV[3] and (#KEYS == 1 or redis.call('EXISTS', KEYS[2]) == 0)
  and not redis.pcall('SET', KEYS[1], string.match(ARGV[3], '^%d+ %S+'), 'PX', ARGV[4]).err then
  return 1
end

