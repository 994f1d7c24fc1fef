-- value.lua: sets the value beside a lock that its claim holds, and restarts the TTL.
--
-- KEYS: 1 lock, 2 value. A value is "<token> <sequence> <set|deleted> <data>".
-- ARGV: 1 claim id, 2 the grant's token, '' if that is not known, 3 TTL ms, 4 and 5 the
--       value's token and sequence, 6 the value
-- Returns 1 if the value is set, now or by an earlier call; 0 if the lock is not the
-- claim's; -1 if what is set comes after it, or is another one of the same place.
--
-- Nothing is written before the value is: a server that is out of memory refuses a
-- script's first write only, so either all of this is done or nothing.

local lock = redis.call('GET', KEYS[1])
if not lock then
  return 0
end
local token, id, kept = read(lock)
if not token then
  return redis.error_reply('HASPCORRUPT the value is not a lock record')
end
if id ~= ARGV[1] or kept == '' or (ARGV[2] ~= '' and token ~= ARGV[2]) then
  return 0
end
local life = redis.call('PTTL', KEYS[1])
if life ~= -1 and life <= tonumber(kept) then
  return 0
end
local old = redis.call('GET', KEYS[2])
if old ~= ARGV[6] then
  if old then
    local under, seq = string.match(old, '^(%d+) (%d+) %l+ ')
    if not under then
      return redis.error_reply('HASPCORRUPT what is beside the lock is not a value')
    end
    if exceeds(under, ARGV[4]) or (under == ARGV[4] and not exceeds(ARGV[5], seq)) then
      return -1
    end
  end
  redis.call('SET', KEYS[2], ARGV[6])
end
if ARGV[3] ~= string.match(lock, '^%d+ %S+ (%d+)') then
  redis.call('SET', KEYS[1], retimed(lock, ARGV[3]))
end
redis.call('PEXPIRE', KEYS[1], ARGV[3] + kept)
return 1
