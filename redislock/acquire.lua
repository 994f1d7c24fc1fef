-- acquire.lua: one attempt to take the lock.
--
-- KEYS: 1 lock, 2 queue, 3 turn
-- ARGV: 1 claim id, 2 "<TTL ms> <memory ms> <floor 0>", 3 TTL + memory, 4 token
--       floor, 5 "<channel> <holder>", 6 manners (turn.lua)
-- Returns the token; or {record, ms, first} if it is held: first is 1 if the
-- claim is the next to try when ms are over; or {'', ms, first} if it is free but
-- another waiter's turn. It writes only if it grants, but for the queue.
-- acquire-free.lua has read the lock.

local id = ARGV[1]
local before = '0'

if lock then
  local token, owner, kept, floor = read(lock)
  if not token or exceeds(token, MAX) then
    return redis.error_reply('HASPCORRUPT the value is not a lock record')
  end
  before = token
  if kept ~= '' then
    local left = remaining(kept)
    if left > 0 then
      if owner == id then
        redis.call('PEXPIRE', KEYS[1], string.match(ARGV[2], '^%d+') + kept)
        return token
      end
      local first = head()
      return {lock, left, (not first or first == id .. ' ' .. string.match(ARGV[5], '^%S+')) and 1 or 0}
    end
    if exceeds(floor, before) then
      before = floor
    end
  end
end

local now = clock()
local me
if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then
  me = id .. ' ' .. string.match(ARGV[5], '^%S+')
  local next, left = heir(now, me)
  if not next then
    if head() == me then
      next = me
    else
      next, left = serve(now, ARGV[6])
    end
  end
  if next and next ~= me then
    local first = head()
    return {'', left, (not first or first == me) and 1 or 0}
  end
end

if exceeds(ARGV[4], before) then
  before = ARGV[4]
end
local token, terms, life = now, ARGV[2], ARGV[3]
if not exceeds(now, before) then
  if before == MAX then
    return redis.error_reply('HASPUSEDUP')
  end
  token = successor(before)
  local ttl, usual = string.match(terms, '^(%d+) (%d+)')
  local longer = memory(token, now, usual)
  terms, life = ttl .. ' ' .. longer .. ' 0', ttl + longer
end
redis.call('SET', KEYS[1], token .. ' ' .. id .. ' ' .. terms .. ' ' .. now .. ' ' .. ARGV[5], 'PX', life)
if me then
  redis.call('DEL', KEYS[3])
  redis.call('ZREM', KEYS[2], me)
end
return token
