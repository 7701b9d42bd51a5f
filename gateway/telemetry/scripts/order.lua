-- Which of two reports is newer: within a boot by seq, between boots by their succession.
--
-- `boots` of a scooter lists its last boots, oldest first, as {number, told}; told is 1 when a
-- live birth announced it. What loses only because of its boot is set aside by boot and group,
-- so that a birth which arrives after its reports ends in the same state as one before them.

local forget_aside, promote -- in fold.lua
local show_firmware -- in firmware.lua

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
  if new[1] >= 0 and old[1] >= 0 then
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
  scooter.boot, scooter.stored[BOOT] = number, integer(number)
  put(scooter, 'boot', integer(number))
  if index > 0 then promote(scooter, number) end
  show_firmware(scooter)
end

-- How much later (ms) a report is than the newest of a boot; 0 where a clock is missing.
local function gap_to(scooter, new, number)
  local newest = order_in(scooter, 'report')
  if not newest or newest[1] ~= number then
    local groups = aside_of(scooter)[integer(number)]
    newest = groups and groups.report and groups.report.order
  end
  if not newest or newest[3] == 0 or new[3] == 0 then return 0 end
  return new[3] - newest[3]
end

-- Whether a report of an unknown boot shows that its boot came after `boot`.
local function follows(scooter, new, boot)
  local gap = gap_to(scooter, new, boot[1])
  if new[1] < boot[1] then return gap > CLOCK_GAP_MS end
  return boot[2] == 1 or gap >= -CLOCK_GAP_MS
end

-- A known boot is moved by its clock alone, and never past one that a birth announced.
local function place_known(scooter, new, index)
  local boots = boots_of(scooter)
  for later = index + 1, #boots do
    if boots[later][2] == 1 then return end
  end
  if gap_to(scooter, new, boots[#boots][1]) > CLOCK_GAP_MS then make_current(scooter, new[1], 0) end
end

-- Find a report's boot its place in the succession when it is not the current one.
local function place(scooter, new)
  local boots = boots_of(scooter)
  local known, index = index_of(boots, new[1]), #boots
  if known == #boots and known > 0 then return end
  if known > 0 then return place_known(scooter, new, known) end
  while index > 0 and not follows(scooter, new, boots[index]) do index = index - 1 end
  if index == #boots then return make_current(scooter, new[1], 0) end
  if index > 0 or #boots < BOOTS_KEPT then insert_boot(scooter, index + 1, new[1], 0) end
end
