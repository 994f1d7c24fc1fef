-- turn.lua: the queue of waiters, and whose turn it is. It stands in front of the
-- scripts that may find a lock free or leave it so.
--
-- KEYS: 1 lock, 2 queue, 3 turn. A waiter is "<claim id> <channel>", a turn is
-- "<waiter> <deadline us> <length ms>". A turn exists only while the lock is free or
-- stale. Times are microseconds of the server's clock; as doubles they are exact
-- until the year 2255. Manners is "<patience ms> <exact>".
--
-- In a slot of a cluster that is being moved the keys may be in two places, and a
-- script is given the lock's alone. Then there is no queue.

local whole = #KEYS > 1

-- ROLL has the turn during a roll call: nobody may acquire.
local ROLL = '- -'

-- CALLED is how many clients a roll call calls at most.
local CALLED = 256

local function clock()
  local t = redis.call('TIME')
  return t[1] .. string.sub('00000' .. t[2], -6)
end

local function head()
  return whole and redis.call('ZRANGE', KEYS[2], 0, 0)[1]
end

-- turnto writes whose turn it is. With pcall, because a server that is out of
-- memory refuses it; the waiter has been woken all the same.
local function turnto(waiter, now, ms)
  redis.pcall('SET', KEYS[3], waiter .. string.format(' %.0f %.0f', now + ms * 1000, ms), 'PX', string.format('%.0f', ms + 60000))
end

-- rollcall is held when a turn was let pass: the client that had it is dead, stopped
-- or deaf, and others may be so too, each of which would cost the same patience. All
-- waiters of the silent client and of those called are taken off the queue, and the
-- latter are told. Who lives puts its waiters back in their places at once; the
-- others do so when they come to, or never. It returns for how many ms the roll call
-- lasts; nil if nobody was called.
local function rollcall(now, silent, manners)
  local called, count, heard = {}, 0, false
  local patience, exact = string.match(manners, '^(%d+) (%d)$')
  for _, waiter in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    local channel = string.match(waiter, ' (%S+)$')
    if channel and channel ~= silent and not called[channel] and count < CALLED then
      called[channel], count = true, count + 1
      if redis.call('PUBLISH', channel, 'call - ' .. KEYS[1]) > 0 or exact == '0' then
        heard = true
      end
    end
    if not channel or channel == silent or called[channel] then
      redis.call('ZREM', KEYS[2], waiter)
    end
  end
  if not heard then
    return nil
  end
  local ms = math.max(1, math.min(1000, math.floor(patience / 4)))
  turnto(ROLL, now, ms)
  return ms
end

-- heir returns whose turn it is, and for how many ms more. A turn that was let pass
-- ends here, in a roll call. It was let pass if its time is over, or if it has more
-- time left than it ever had: then the clock was set back.
local function heir(now, me, manners)
  local turn = whole and redis.call('GET', KEYS[3])
  if not turn then
    return nil
  end
  local waiter, channel, deadline, length = string.match(turn, '^(%S+ (%S+)) (%d+) (%d+)$')
  if waiter then
    local left = (deadline - now) / 1000
    if waiter == me or left > 0 and left <= tonumber(length) then
      return waiter, math.ceil(left)
    end
  end
  redis.call('DEL', KEYS[3])
  if waiter and waiter ~= ROLL then
    local ms = rollcall(now, channel, manners)
    if ms then
      return ROLL, ms
    end
  end
  return nil
end

-- serve gives the turn to the first waiter and wakes it, and only it. It returns
-- the waiter and for how many ms it is its turn. Where the server knows all listeners
-- (exact 1) a waiter that nobody listens for is passed over: its process is dead.
local function serve(now, manners)
  local patience, exact = string.match(manners, '^(%d+) (%d)$')
  while whole do
    -- pcall: the lock is free, whatever fails now; and a queue that is on the move and
    -- empty here may be elsewhere
    local first = redis.pcall('ZPOPMIN', KEYS[2])[1]
    if not first then
      return nil
    end
    local id, channel = string.match(first, '^(%S+) (%S+)$')
    local heard = id and redis.pcall('PUBLISH', channel, 'turn ' .. id .. ' ' .. KEYS[1])
    if id and (exact == '0' or type(heard) ~= 'number' or heard > 0) then
      turnto(first, now or clock(), tonumber(patience))
      return first, tonumber(patience)
    end
  end
  return nil
end

-- pass serves the next waiter of a lock that was let go, unless a waiter has its turn:
-- that is so if the lock was stale. The lock is free, whatever fails now.
local function pass(manners)
  local ok, taken = pcall(function()
    return not head() or heir(clock(), nil, manners) ~= nil
  end)
  if not ok or not taken then
    serve(nil, manners)
  end
end
