-- token.lua: arithmetic on fencing tokens. They are any uint64 and Lua's numbers
-- are doubles, so tokens are kept and compared as decimal strings.

local MAX = '18446744073709551615'

local function exceeds(a, b)
  if #a ~= #b then
    return #a > #b
  end
  return a > b
end

local function successor(n)
  local front, tail = string.sub(n, 1, -10), string.sub(n, -9)
  local sum = string.format('%.0f', tonumber(tail) + 1)
  if front == '' then
    return sum
  end
  if #sum > 9 then
    return successor(front) .. string.sub(sum, 2)
  end
  return front .. string.rep('0', 9 - #sum) .. sum
end

-- memory is how many ms a token has to be remembered: the usual, plus the time
-- until the clock has caught up with it. Once the clock is past a token, the
-- clock's own reading is greater, and the token may be forgotten. A token that
-- the clock will not reach in 280,000 years is remembered for that long.
local function memory(token, now, usual)
  if not exceeds(token, now) then
    return usual
  end
  local ms = 9e15
  if #token <= 18 then
    ms = math.min(ms, usual + math.ceil((tonumber(token) - tonumber(now)) / 1000))
  end
  return string.format('%.0f', ms)
end
