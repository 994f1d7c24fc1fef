-- turn.lua: the queue of waiters, and whose turn it is. It stands in front of the
-- scripts that may find a lock free or leave it so.
--
-- KEYS: 1 lock, 2 queue, 3 turn. A waiter is "<claim id> <channel>", a turn is
-- "<waiter> <deadline us>". A turn exists only while the lock is free or stale.
-- Times are microseconds of the server's clock; as doubles they are exact until
-- the year 2255.

local function clock()
  local t = redis.call('TIME')
  return t[1] .. string.sub('00000' .. t[2], -6)
end

local function head()
  return redis.call('ZRANGE', KEYS[2], 0, 0)[1]
end

-- drop takes a client's waiters off the queue. If the client lives, it puts them
-- back, in their old places, within a second or so.
local function drop(channel)
  for _, waiter in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if string.match(waiter, ' (%S+)$') == channel then
      redis.call('ZREM', KEYS[2], waiter)
    end
  end
end

-- heir returns whose turn it is, and for how many ms more. A turn that was let
-- pass ends here, and with it, for now, all that its client waits for: the client
-- may be dead or stopped, and each of its waiters would cost the same patience.
local function heir(now, me)
  local turn = redis.call('GET', KEYS[3])
  if not turn then
    return nil
  end
  local waiter, channel, deadline = string.match(turn, '^(%S+ (%S+)) (%d+)$')
  if waiter and (waiter == me or tonumber(deadline) > tonumber(now)) then
    return waiter, math.ceil((tonumber(deadline) - tonumber(now)) / 1000)
  end
  redis.call('DEL', KEYS[3])
  if channel then
    drop(channel)
  end
  return nil
end

-- serve gives the turn to the first waiter and wakes it, and only it. It returns
-- the waiter and for how many ms it is its turn. Manners is "<patience ms> <exact>".
-- Where the server knows all listeners (exact 1) a waiter that nobody listens for
-- is passed over: its process is dead. The turn is written with pcall because a
-- server that is out of memory refuses it; the waiter has been woken all the same.
local function serve(now, manners)
  local first = redis.call('ZPOPMIN', KEYS[2])[1]
  if not first then
    return nil
  end
  local patience, exact = string.match(manners, '^(%d+) (%d)$')
  while first do
    local id, channel = string.match(first, '^(%S+) (%S+)$')
    if id and (redis.call('PUBLISH', channel, 'turn ' .. id .. ' ' .. KEYS[1]) > 0 or exact == '0') then
      local deadline = string.format('%.0f', (now or clock()) + patience * 1000)
      redis.pcall('SET', KEYS[3], first .. ' ' .. deadline, 'PX', patience + 60000)
      return first, tonumber(patience)
    end
    first = redis.call('ZPOPMIN', KEYS[2])[1]
  end
  return nil
end
