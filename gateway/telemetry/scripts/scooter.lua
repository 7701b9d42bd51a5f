-- One scooter while a script works on it: read once, changed in memory, stored once.
--
-- An order field reads boot:seq:ts:known, with -1 without boot and seq, 0 without a believed ts;
-- seq alone is -1 for what a birth said, which comes before its boot's reports. `known` has a
-- digit for each field of the group: 0 no value, 1 a value, 2 a value from a birth instead of the
-- group's own. `internal` is JSON for the scripts alone (boots, conn, goodbye, lost_at, firmware),
-- and so is `aside`, by boot and group.

local format = string.format

local function integer(number)
  return format('%.0f', number)
end

local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now_us_text = integer(now_us)
local now_ms = math.floor(now_us / 1000)

local READ = {
  'version', 'presence', 'boot', 'uptime_ms', 'uptime_boot', 'report_order', 'interval_order',
  'position_order', 'battery_order', 'lock_order', 'device_order', 'interval_s',
}
local BOOT, INTERVAL = 3, 12
local ORDERS = { report = 6, interval = 7, position = 8, battery = 9, lock = 10, device = 11 }

-- None when the key holds something that is not ours.
local function load_scooter(id)
  local key = 'scooter:' .. id
  local stored = redis.pcall('HMGET', key, unpack(READ))
  if stored.err then return nil end
  return {
    id = id, key = key, stored = stored, orders = {}, fields = {}, version = tonumber(stored[1]) or 0,
    presence = stored[2] or nil, boot = tonumber(stored[3]), aside = nil, internal = nil,
  }
end

-- Change a field to a text; false clears it.
local function put(scooter, name, text)
  scooter.changed = true
  scooter.fields[name] = text
end

local function field(scooter, name)
  local changed = scooter.fields[name]
  if changed ~= nil then return changed end
  return redis.call('HGET', scooter.key, name)
end

-- What a field holds as JSON; nothing, where someone else's hand made it unreadable.
local function decoded(scooter, name)
  local text = redis.call('HGET', scooter.key, name)
  local is_json, value = pcall(cjson.decode, text or '{}')
  return is_json and type(value) == 'table' and value or {}
end

local function internal_of(scooter)
  if not scooter.internal then
    scooter.internal = decoded(scooter, 'internal')
    if type(scooter.internal.boots) ~= 'table' then scooter.internal.boots = {} end
  end
  return scooter.internal
end

-- For a change of what `internal_of` returned.
local function keep_internal(scooter)
  scooter.internal_changed, scooter.changed = true, true
end

local function aside_of(scooter)
  if not scooter.aside then
    scooter.aside = decoded(scooter, 'aside')
  end
  return scooter.aside
end

local function keep_aside(scooter)
  put(scooter, 'aside', next(scooter.aside) and cjson.encode(scooter.aside) or false)
end

-- {boot, seq, ts, known}, or nil when nothing of the group is known.
local function order_in(scooter, group)
  local order = scooter.orders[group]
  if order == nil then
    local text = scooter.stored[ORDERS[group]]
    if not text then return nil end
    local boot, seq, ts, known = string.match(text, '^(-?%d+):(-?%d+):(%d+):(%d*)$')
    if not boot then return nil end
    order = { tonumber(boot), tonumber(seq), tonumber(ts), known }
    scooter.orders[group] = order
  end
  return order
end

-- Decimal text that reads back the same. What Lua writes by itself has 14 digits, in half the time.
local function number_text(number)
  local text = number .. ''
  if tonumber(text) == number then return text end
  return format('%.15g', number)
end

local function order_text(order)
  return format('%.0f:%.0f:%.0f:', order[1], order[2], order[3])
end

local function set_presence(scooter, presence, at)
  if scooter.presence == presence then return false end
  scooter.presence = presence
  put(scooter, 'presence', presence)
  put(scooter, 'presence_at', integer(at))
  return true
end

-- When the silence of a scooter that last spoke at `at` becomes remarkable.
local function silent_until(scooter, at, stale_after_ms)
  local interval_s = tonumber(field(scooter, 'interval_s') or nil)
  return at + (interval_s and interval_s > 0 and interval_s * 3000 or stale_after_ms)
end

local function watch_silence(scooter, at, stale_after_ms)
  local until_ms = silent_until(scooter, at, stale_after_ms)
  redis.call('ZADD', 'scooters:deadlines', integer(until_ms), scooter.id)
end

-- The geo set's projection ends at a latitude; a scooter beyond it is in the hash only. One place
-- that Redis refuses would keep all the others out.
local function index_positions(moved)
  local placed, gone = {}, {}
  for _, scooter in ipairs(moved) do
    local lat, lon = tonumber(scooter.fields.lat or nil), tonumber(scooter.fields.lon or nil)
    if lat and lon and math.abs(lat) <= 85.05112878 and math.abs(lon) <= 180 then
      local last = #placed
      placed[last + 1], placed[last + 2], placed[last + 3] = lon, lat, scooter.id
    else
      gone[#gone + 1] = scooter.id
    end
  end
  if #placed > 0 then redis.call('GEOADD', 'scooters:position', unpack(placed)) end
  if #gone > 0 then redis.call('ZREM', 'scooters:position', unpack(gone)) end
end

local function tell_change(scooter)
  local fields = {}
  for name, text in pairs(scooter.fields) do
    if name ~= 'internal' and name ~= 'aside' and not string.find(name, '_order$') then
      fields[name] = text or cjson.null
    end
  end
  redis.call(
    'PUBLISH', 'scooters:changes', cjson.encode({ scooter_id = scooter.id, fields = fields })
  )
end

-- Write what changed with a new version. To mark it dirty, and to index where it is if it moved, is
-- the caller's, for all at once.
local function store(scooter, told)
  if scooter.internal_changed then put(scooter, 'internal', cjson.encode(scooter.internal)) end
  put(scooter, 'version', scooter.version < now_us and now_us_text or integer(scooter.version + 1))
  local set, cleared, count = {}, {}, 0
  for name, text in pairs(scooter.fields) do
    if text then
      set[count + 1], set[count + 2] = name, text
      count = count + 2
    else
      cleared[#cleared + 1] = name
    end
  end
  redis.call('HSET', scooter.key, unpack(set))
  if #cleared > 0 then redis.call('HDEL', scooter.key, unpack(cleared)) end
  if told then tell_change(scooter) end
end

local function mark_dirty(ids)
  local marks = {}
  for index, id in ipairs(ids) do
    marks[index * 2 - 1], marks[index * 2] = now_ms, id
  end
  if #ids > 0 then redis.call('ZADD', 'scooters:dirty', 'NX', unpack(marks)) end
end
