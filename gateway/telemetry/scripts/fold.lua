-- Folding a report into a scooter, group by group, each only forward.
--
-- What a report is, `report.lua` says.

local function kept_of(scooter, boot)
  if index_of(boots_of(scooter), boot) == 0 then return nil end
  local aside, number = aside_of(scooter), integer(boot)
  aside[number] = aside[number] or {}
  return aside[number]
end

local function set_aside(scooter, group, order, texts, measured_at)
  local groups = kept_of(scooter, order[1])
  if not groups then return -1 end
  local kept = groups[group]
  if kept and kept.order[2] >= order[2] then return kept.order[2] == order[2] and 0 or -1 end
  local brief = { order[1], order[2], order[3] }
  groups[group] = { order = brief, texts = texts, at = measured_at }
  keep_aside(scooter)
  return -1
end

local function set_aside_stored(scooter, group, order)
  local texts = {}
  for index, name in ipairs(NAMES[group]) do
    if name == 'firmware' then
      texts[index] = own_firmware(scooter)
    else
      texts[index] = field(scooter, name)
    end
  end
  set_aside(scooter, group, order, texts, TIMES[group] and field(scooter, TIMES[group]))
end

-- Clearing what is not there would cost as much as writing it.
local function clear_unknown(scooter, group, texts)
  local names, old, known = NAMES[group], scooter.stored[ORDERS[group]], ''
  for index = 1, #names do known = known .. (texts[index] and '1' or '0') end
  if not old or string.sub(old, -#names) ~= known then
    for index, name in ipairs(names) do
      if not texts[index] then scooter.fields[name] = false end
    end
  end
  return known
end

local function write_group(scooter, group, order_start, texts, measured_at)
  local fields, names, known = scooter.fields, NAMES[group], COMPLETE[group]
  for index = 1, #names do
    local text = texts[index]
    if text then fields[names[index]] = text else known = nil end
  end
  known = known or clear_unknown(scooter, group, texts)
  if TIMES[group] then fields[TIMES[group]] = measured_at end
  local order = order_start .. known
  scooter.stored[ORDERS[group]], fields[ORDER_FIELDS[group]] = order, order
  scooter.orders[group], scooter.changed = nil, true
  if group == 'position' then scooter.moved = true end
  -- A deadline is judged by what was heard since, so only another interval needs a new one.
  if group == 'interval' and texts[1] ~= scooter.stored[INTERVAL] then
    scooter.stored[INTERVAL], scooter.paced = texts[1], true
  end
end

forget_aside = function(scooter, number)
  aside_of(scooter)[integer(number)] = nil
  keep_aside(scooter)
end

local function write_uptime(scooter, boot, up, at)
  put(scooter, 'uptime_ms', integer(up))
  put(scooter, 'uptime_at', integer(at))
  scooter.stored[4] = up
  if boot ~= tonumber(scooter.stored[5] or nil) then
    put(scooter, 'uptime_boot', boot >= 0 and integer(boot))
    scooter.stored[5] = boot >= 0 and boot or nil
  end
end

local function set_aside_uptime(scooter, boot, up, at)
  local groups = kept_of(scooter, boot)
  if not groups or (groups.uptime and groups.uptime.up >= up) then return end
  groups.uptime = { up = up, at = at }
  keep_aside(scooter)
end

-- The scooter's own clock for deadlines: within a boot the largest `up`, and when it came, by the
-- clock of Redis: gateways may disagree about the time, and a deadline must not move out for that.
local function fold_uptime(scooter, boot, up, at, newer)
  local known, known_up = tonumber(scooter.stored[5] or nil), tonumber(scooter.stored[4] or nil)
  if boot >= 0 and known == boot then
    newer = up > (known_up or -1)
  elseif boot >= 0 and not known_up then
    newer = newer or index_of(boots_of(scooter), boot) > 0
  elseif boot >= 0 and known then
    local boots = boots_of(scooter)
    if index_of(boots, boot) + index_of(boots, known) > 0 then
      newer = later_boot(scooter, boot, known)
    end
    if newer and known_up then
      set_aside_uptime(scooter, known, known_up, tonumber(field(scooter, 'uptime_at') or nil) or at)
    elseif not newer then
      set_aside_uptime(scooter, boot, up, at)
    end
  end
  if newer then write_uptime(scooter, boot, up, at) end
end

-- What a live birth tells holds even if less was expected, and without `up` it tells no more than
-- that the scooter is up: an uptime that is too low only shortens the time of commands, one of a
-- former life would let them be obeyed late.
local function tell_uptime(scooter, boot, up, at)
  if boot >= 0 and tonumber(scooter.stored[5] or nil) == boot then
    write_uptime(scooter, boot, up or 0, at)
  elseif up then
    fold_uptime(scooter, boot, up, at, true)
  end
end

-- A boot became the current one: what was set aside from it is newer than what is shown.
promote = function(scooter, number)
  local aside, boot = aside_of(scooter), integer(number)
  local groups = aside[boot]
  if not groups then return end
  aside[boot] = nil
  local uptime = groups.uptime
  groups.uptime = nil
  for group, kept in pairs(groups) do
    local old = order_in(scooter, group)
    if old and old[1] >= 0 then set_aside_stored(scooter, group, old) end
    write_group(scooter, group, order_text(kept.order), kept.texts, kept.at)
  end
  if uptime then fold_uptime(scooter, number, uptime.up, uptime.at, true) end
  keep_aside(scooter)
end

-- 1 when the group is newer than the stored one and replaced it, 0 the same report, -1 older.
local function fold_group(scooter, group, report, arrival, measured_at)
  local order, texts, old = report.o, report.g[group] or {}, order_in(scooter, group)
  local verdict = compare(scooter, order, old, arrival)
  local other_boot = old and old[1] ~= order[1] and old[1] >= 0 and order[1] >= 0
  if verdict == 1 then
    local start = report.t
    if other_boot then set_aside_stored(scooter, group, old) end
    -- A report without a number leaves the last number, so that no older one of its boot returns.
    if order[1] < 0 and old and old[1] >= 0 then
      start = order_text({ old[1], old[2], order[3] })
    end
    write_group(scooter, group, start, texts, measured_at)
    if group == 'device' then show_firmware(scooter) end
  elseif verdict == -1 and other_boot then
    return set_aside(scooter, group, order, texts, measured_at)
  end
  return verdict
end

-- Nearly every report comes from the current boot and is its newest: then it is the newest in
-- each of its groups, and no order but the report's own needs to be read.
local function is_newest(scooter, order)
  if scooter.boot ~= order[1] or order[1] < 0 then return false end
  local newest = order_in(scooter, 'report')
  return newest and newest[1] == order[1] and newest[2] < order[2]
end

-- Whether a report of the current boot replaces a group of another one, or of none.
local function takes_over(scooter, group, order)
  local old = order_in(scooter, group)
  if old and old[1] < 0 then return compare(scooter, order, old, 1) == 1 end
  if old then set_aside_stored(scooter, group, old) end
  return true
end

local function fold_newest(scooter, report, at_text)
  local order, same_boot = report.o, scooter.stored[BOOT] .. ':'
  for group, texts in pairs(report.g) do
    local old = scooter.stored[ORDERS[group]]
    local is_same_boot = not old or string.sub(old, 1, #same_boot) == same_boot
    if is_same_boot or takes_over(scooter, group, order) then
      write_group(scooter, group, report.t, texts, report.ts or at_text)
    end
  end
  write_group(scooter, 'report', report.t, report.g, report.ts)
end

-- Fold one report. Returns 1 newer in some group, 0 known already or -1 late; and whether some
-- group of it was late. Only a live report may be judged by its arrival.
local function fold(scooter, report, at, at_text, live)
  local order = report.o
  if live and is_newest(scooter, order) then
    fold_newest(scooter, report, at_text)
    if report.u then fold_uptime(scooter, report.u[1], report.u[2], now_ms, true) end
    return 1, false
  end
  if not live and order[1] < 0 and order[3] == 0 then return -1, true end
  if is_of_former_life(scooter, report, at) then return -1, true end
  if order[1] >= 0 and scooter.boot ~= order[1] then place(scooter, order) end
  local arrival = live and 1 or -1
  local measured_at = report.ts or (live and at_text)
  local best, late = nil, false
  for group in pairs(report.g) do
    if group == 'interval' then
      if live then fold_group(scooter, group, report, arrival) end
    else
      local verdict = fold_group(scooter, group, report, arrival, measured_at)
      if best == nil or verdict > best then best = verdict end
      late = late or verdict == -1
    end
  end
  local verdict = fold_group(scooter, 'report', report, arrival, report.ts)
  if live and report.u and verdict ~= 0 then
    fold_uptime(scooter, report.u[1], report.u[2], now_ms, verdict == 1)
  end
  if best == nil then return verdict, verdict == -1 end
  return best, late
end
