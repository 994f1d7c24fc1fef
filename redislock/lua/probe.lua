-- probe.lua: fails, at Open, for whatever would make the first acquire fail: no
-- permission, a replica, no memory. It leaves nothing behind.
--
-- KEYS: 1 a name that no lock has
-- ARGV: 1 channel, 2 exact (turn.lua)
-- Returns, for each command that the user may not run, its name and the error.

local missing, other = {}, nil
local function try(name, ...)
  local reply = redis.pcall(...)
  local err = type(reply) == 'table' and reply.err
  if err and (string.find(err, 'NOPERM') or string.find(err, 'ACL failure') or string.find(err, 'user executing')) then
    missing[#missing + 1] = name
    missing[#missing + 1] = err
  elseif err then
    other = other or reply
  end
end

local key, channel = KEYS[1], ARGV[1]
try('set', 'SET', key, '1', 'PX', '1000')
try('get', 'GET', key)
try('exists', 'EXISTS', key)
try('pttl', 'PTTL', key)
try('pexpire', 'PEXPIRE', key, '1000')
try('del', 'DEL', key)
try('zadd', 'ZADD', key, '0', 'x')
try('zrange', 'ZRANGE', key, '0', '0')
try('zcard', 'ZCARD', key)
try('zrem', 'ZREM', key, 'x')
try('zpopmin', 'ZPOPMIN', key)
try('time', 'TIME')
try('ping', 'PING')
try('publish', 'PUBLISH', channel, 'probe')
if ARGV[2] == '1' then
  try('pubsub|numsub', 'PUBSUB', 'NUMSUB', channel)
end
if #missing == 0 and other then
  return other
end
return missing
