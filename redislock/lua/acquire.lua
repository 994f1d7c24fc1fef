-- acquire.lua: one attempt to take the lock.
--
-- KEYS: 1 lock, 2 queue, 3 turn, 4 the claim's withdrawal
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
    local left = remaining(lock, kept)
    if left > 0 then
      if owner == id then
        local ttl = string.match(ARGV[2], '^%d+')
        local reply
        if ttl ~= string.match(lock, '^%d+ %S+ (%d+)') then
          reply = redis.pcall('SET', KEYS[1], retimed(lock, ttl), 'PX', ttl + kept)
        else
          reply = redis.pcall('PEXPIRE', KEYS[1], ttl + kept)
        end
        if type(reply) == 'table' and reply.err then
          -- not in the server's words: they would mean that nothing is held
          return redis.error_reply('HASPUNKNOWN the TTL does not begin anew: ' .. reply.err)
        end
        return token
      end
      local first = head()
      return {lock, left, whole and (not first or first == id .. ' ' .. string.match(ARGV[5], '^%S+')) and 1 or 0}
    end
    if exceeds(floor, before) then
      before = floor
    end
  end
end

if whole and redis.call('EXISTS', KEYS[4]) == 1 then
  return redis.error_reply('HASPWITHDRAWN the claim was withdrawn before this attempt arrived')
end

local now = clock()
local me
if whole and redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then
  me = id .. ' ' .. string.match(ARGV[5], '^%S+')
  local next, left = heir(now, me, ARGV[6])
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
  -- pcall: whatever fails now, the lock is taken
  redis.pcall('DEL', KEYS[3])
  redis.pcall('ZREM', KEYS[2], me)
end
return token
