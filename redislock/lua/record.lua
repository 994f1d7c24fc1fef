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
-- whose expiry somebody removed is held until it is renewed or released. One that has
-- more left than its TTL has outlived a step of the clock back, and would, if its
-- holder is dead, be held for as long: its TTL begins anew here. A holder counts its
-- own from before it last asked, so it gives up first all the same.
local function remaining(lock, memory)
  local life = redis.call('PTTL', KEYS[1])
  if life == -1 then
    return 1
  end
  local ttl = string.match(lock, '^%d+ %S+ (%d+)')
  if life - memory > tonumber(ttl) then
    life = ttl + memory
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', life))
  end
  return life - memory
end

-- retimed is a record with another TTL.
local function retimed(lock, ttl)
  return (string.gsub(lock, '^(%d+ %S+) %d+', '%1 ' .. ttl))
end
