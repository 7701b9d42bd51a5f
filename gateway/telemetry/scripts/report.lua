-- A message of the contract as the scripts fold it: {o = {boot, seq, ts}, t = its text,
-- ts = the text of ts, g = {group = texts}, u = {boot, up}}.
--
-- The texts of a group are in the order of NAMES, false where the message leaves a field unknown. A
-- group of which one field was sent was sent whole. A clock more than 60 s ahead of ours, or before
-- 2020, is not believed: then ts is 0, and its text false.

local YEAR_2020_MS = 1577836800000
local CLOCK_AHEAD_MS = 60000

local function given(value)
  if value == cjson.null then return nil end
  return value
end

local function text_of(value)
  local kind = type(value)
  if kind == 'number' then return number_text(value) end
  if kind == 'string' then return value end
  if kind == 'boolean' then return value and 'true' or 'false' end
  return false
end

local function groups_of(message)
  local groups = {}
  for group, wires in pairs(WIRES) do
    local texts
    for index = 1, #wires do
      local value = message[wires[index]]
      if value ~= nil then
        texts = texts or BLANK[group]()
        texts[index] = text_of(value)
      end
    end
    groups[group] = texts
  end
  return groups
end

local function report_of(message, at)
  local boot, seq, ts = given(message.boot), given(message.seq), given(message.ts)
  local up, order = given(message.up), nil
  local is_believed = ts and ts >= YEAR_2020_MS and ts <= at + CLOCK_AHEAD_MS
  if not is_believed then ts = 0 end
  if boot and seq then order = { boot, seq, ts } else order = { -1, -1, ts } end
  local ts_text = integer(ts)
  return {
    o = order, t = format('%.0f:%.0f:', order[1], order[2]) .. ts_text .. ':',
    ts = is_believed and ts_text or false, g = groups_of(message), u = up and { boot or -1, up },
  }
end
