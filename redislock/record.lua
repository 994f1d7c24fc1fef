-- record.lua: what a lock's key holds. It stands in front of the scripts.
--
-- held:      "<token> <id> <TTL ms> <memory ms> <floor> <since us> <channel> <holder>"
-- free:      "<token>" or, after a release, "<token> <id of the claim that released>"
--
-- The key lives for the lock's TTL and then for its memory, so that the last
-- token is known for a while, and a release that is repeated. A held lock whose
-- key has no more than its memory left to live is stale. So one PEXPIRE renews,
-- which a server that is out of memory still does. Floor is what RaiseToken asked
-- for while the lock was held, else 0.

-- read returns token, id ('' if unknown), memory ('' if free) and floor; nothing if
-- the value is not a record.
local function read(value)
  return string.match(value, '^(%d+) ?(%S*) ?%d* ?(%d*) ?(%d*)')
end

-- remaining is how many ms a held lock has left; 0 or less if it is stale. One
-- whose expiry somebody removed is held until it is renewed or released.
local function remaining(memory)
  local life = redis.call('PTTL', KEYS[1])
  if life == -1 then
    return 1
  end
  return life - memory
end
