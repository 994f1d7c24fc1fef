-- probe.lua: fails, at Open, for whatever would make the first acquire fail: no
-- permission, a replica, no memory. What it writes is gone after a millisecond.
--
-- KEYS: 1 a name that no lock has
-- ARGV: 1 channel
-- Returns 1 if the server is one of a Redis Cluster, as far as it may be asked.

redis.call('SET', KEYS[1], '1', 'PX', '1')
redis.call('PUBLISH', ARGV[1], 'probe')
return type(redis.pcall('CLUSTER', 'KEYSLOT', KEYS[1])) == 'number' and 1 or 0
