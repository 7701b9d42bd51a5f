-- Which of two reports is newer: within a boot by seq, between boots by their succession.
--
-- `boots` of a scooter lists its last boots, oldest first, as {number, told}; told is 1 when a
-- live birth announced it. What loses only because of its boot is set aside by boot and group,
-- so that a birth which arrives after its reports ends in the same state as one before them.

local forget_aside, promote -- in fold.lua

local CLOCK_GAP_MS = 60000
local BOOTS_KEPT = 4

local function boots_of(scooter)
  return internal_of(scooter).boots
end

local function index_of(boots, number)
  for index, boot in ipairs(boots) do
    if boot[1] == number then return index end
  end
  return 0
end

local function later_boot(scooter, one, other)
  local boots = boots_of(scooter)
  local rank, other_rank = index_of(boots, one), index_of(boots, other)
  if rank == other_rank then return one > other end
  return rank > other_rank
end

-- 1 newer, 0 the same report, -1 older; `arrival` decides where nothing else can.
local function compare(scooter, new, old, arrival)
  if not old then return 1 end
  if new[2] >= 0 and old[2] >= 0 then
    if new[1] ~= old[1] then return later_boot(scooter, new[1], old[1]) and 1 or -1 end
    if new[2] == old[2] then return 0 end
    return new[2] > old[2] and 1 or -1
  end
  if new[3] > 0 and old[3] > 0 then
    if new[3] == old[3] then return 0 end
    return new[3] > old[3] and 1 or -1
  end
  return arrival
end

local function insert_boot(scooter, index, number, told)
  local boots = boots_of(scooter)
  table.insert(boots, index, { number, told })
  while #boots > BOOTS_KEPT do
    forget_aside(scooter, boots[1][1])
    table.remove(boots, 1)
  end
  keep_internal(scooter)
end

-- Move a boot behind all others, and bring back what was set aside from it.
local function make_current(scooter, number, told)
  local boots = boots_of(scooter)
  local index = index_of(boots, number)
  if index > 0 then told = math.max(told, table.remove(boots, index)[2]) end
  insert_boot(scooter, #boots + 1, number, told)
  scooter.boot = number
  put(scooter, 'boot', integer(number))
  if index > 0 then promote(scooter, number) end
end

-- Find a report's boot its place in the succession when it is not the current one.
local function place(scooter, new)
  local boots, number, newest = boots_of(scooter), new[1], order_in(scooter, 'report')
  local top = boots[#boots]
  if not top then return make_current(scooter, number, 0) end
  local gap = 0
  if newest and newest[1] == top[1] and newest[3] > 0 and new[3] > 0 then
    gap = new[3] - newest[3]
  end
  if index_of(boots, number) > 0 then
    if gap > CLOCK_GAP_MS and top[2] == 0 then make_current(scooter, number, 0) end
    return
  end
  local higher = number > top[1] and (top[2] == 1 or gap >= -CLOCK_GAP_MS)
  if higher or (number < top[1] and gap > CLOCK_GAP_MS) then
    return make_current(scooter, number, 0)
  end
  local index = #boots
  while index > 1 and boots[index - 1][1] > number do index = index - 1 end
  insert_boot(scooter, index, number, 0)
end
