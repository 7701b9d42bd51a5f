-- advance: fold a batch of entries into the latest states, and append what must not be lost.
--
-- ARGV: JSON {at = ms, entries = [{k, id, …}]}, most bytes of the history, ms of silence until
-- stale. Returns one outcome an entry, and the number of records that a full history dropped;
-- `full` asks to bring an event or a batch again later, `foreign` says that the scooter's key
-- is not ours.

if redis.call('EXISTS', 'scooters:loaded') == 0 then
  return redis.error_reply('NOTLOADED the states are gone: refill them first')
end

local GRACE_MS = 10000

local input = cjson.decode(ARGV[1])
local at, at_text = input.at, integer(input.at)
local history_max, stale_after_ms = tonumber(ARGV[2]), tonumber(ARGV[3])
local history_bytes = tonumber(redis.call('GET', 'scooters:history_bytes') or '0')
local appended, dropped = 0, 0
local told = redis.call('PUBSUB', 'NUMSUB', 'scooters:changes')[2] > 0
local heard_ids = {}

local function is_full()
  return history_bytes + appended >= history_max
end

local function append(kind, id, body)
  redis.call('XADD', 'scooters:history', '*', 'k', kind, 'id', id, 'at', at_text, 'b', body)
  appended = appended + #id + #body + 64
end

local function append_or_drop(kind, id, body)
  if is_full() then
    dropped = dropped + 1
  else
    append(kind, id, body)
  end
end

-- A report as its scooter sent it, but for a clock that is not believed. The texts of numbers are
-- taken as they are: the encoder would round them.
local function report_body(report)
  local order, members = report.o, {}
  local function add(wire, text)
    members[#members + 1] = '"' .. wire .. '":' .. text
  end
  if report.ts then add('ts', report.ts) end
  if order[1] >= 0 then
    add('boot', integer(order[1]))
    add('seq', integer(order[2]))
  end
  if report.u then add('up', integer(report.u[2])) end
  for group, texts in pairs(report.g) do
    local before = #members
    for index = 1, #WIRES[group] do
      local text = texts[index]
      local wire = WIRES[group][index]
      if text then add(wire, IS_TEXT[wire] and cjson.encode(text) or text) end
    end
    if #members == before then add(WIRES[group][1], 'null') end
  end
  return '{' .. table.concat(members, ',') .. '}'
end

local function heard(scooter)
  put(scooter, 'received_at', at_text)
  heard_ids[#heard_ids + 1] = scooter.id
end

local function wake(scooter)
  local came_back = set_presence(scooter, 'online', at)
  if came_back then put(scooter, 'wake_s', false) end
  -- A will that was not judged yet keeps its deadline.
  if came_back or (scooter.paced and not internal_of(scooter).lost_at) then
    watch_silence(scooter, at, stale_after_ms)
  end
end

-- A report that was on its way when the scooter said goodbye does not bring it back.
local function stays_asleep(scooter, uptime)
  if scooter.presence ~= 'sleeping' and scooter.presence ~= 'offline' then return false end
  local goodbye = internal_of(scooter).goodbye
  local since = goodbye and at - goodbye.at
  if not since or since < 0 or since >= GRACE_MS then return false end
  return not (uptime and goodbye.up and uptime[1] == goodbye.boot and uptime[2] > goodbye.up)
end

local function seen(scooter, report)
  heard(scooter)
  if stays_asleep(scooter, report.u) then return end
  if scooter.presence == 'sleeping' or scooter.presence == 'offline' then
    internal_of(scooter).goodbye = nil
    keep_internal(scooter)
  end
  wake(scooter)
end

-- What a birth says comes before the reports of its boot, and after those of older ones.
local function birth_interval(scooter, boot, interval_s)
  local report = { o = { boot or -1, -1, 0 }, g = { interval = { number_text(interval_s) } } }
  report.t = order_text(report.o)
  if fold_group(scooter, 'interval', report, 1) == 0 then
    write_group(scooter, 'interval', report.t, report.g.interval)
  end
end

local function birth(scooter, message, retained)
  local internal = internal_of(scooter)
  local boot, up, interval_s = given(message.boot), given(message.up), given(message.ivl)
  if boot and up and not retained then judge_life(scooter, boot, up, at) end
  if boot and not (retained and #internal.boots > 0) then
    make_current(scooter, boot, retained and 0 or 1)
  end
  internal.conn = { boot = boot, number = given(message.conn), at = at }
  if not retained then internal.conn.up = up end
  internal.goodbye, internal.lost_at = nil, nil
  keep_internal(scooter)
  if retained then
    set_presence(scooter, 'online', at)
    watch_silence(scooter, at, stale_after_ms)
    return
  end
  if interval_s then birth_interval(scooter, boot, interval_s) end
  if given(message.fw) then tell_firmware(scooter, boot, message.fw) end
  tell_uptime(scooter, boot or -1, up, now_ms)
  heard(scooter)
  wake(scooter)
end

-- Whether a goodbye or a will belongs to the connection that we know of. What the broker retained
-- may be all that is left of a later boot.
local function is_current(scooter, message, retained)
  local known = internal_of(scooter).conn
  if not known then return true end
  local boot, number = given(message.boot), given(message.conn)
  if boot and known.boot and boot ~= known.boot then
    local unknown = index_of(boots_of(scooter), boot) == 0
    return retained and unknown and boot > known.boot
  end
  return not (number and known.number) or number >= known.number
end

-- A retained goodbye comes again with every subscription.
local function is_told(scooter, message)
  local known = internal_of(scooter).goodbye
  return known and scooter.presence == message.s
    and known.boot == given(message.boot) and known.up == given(message.up)
end

local function goodbye(scooter, message, retained)
  local internal = internal_of(scooter)
  if retained and is_told(scooter, message) then return end
  if not retained then heard(scooter) end
  internal.goodbye = { at = at, boot = given(message.boot), up = given(message.up) }
  internal.lost_at = nil
  keep_internal(scooter)
  local wake_s = given(message.wake)
  put(scooter, 'wake_s', wake_s and number_text(wake_s) or false)
  set_presence(scooter, message.s, at)
  redis.call('ZREM', 'scooters:deadlines', scooter.id)
end

local function will(scooter)
  local internal = internal_of(scooter)
  if scooter.presence == 'lost' or internal.goodbye or internal.lost_at then return end
  internal.lost_at = at
  keep_internal(scooter)
  redis.call('ZADD', 'scooters:deadlines', integer(at + GRACE_MS), scooter.id)
end

local function status(scooter, message, retained)
  local known = internal_of(scooter).conn
  if message.s == 'online' then
    local repeated = known and scooter.presence
      and known.boot == given(message.boot) and known.number == given(message.conn)
    if not (retained and repeated) then birth(scooter, message, retained) end
  elseif is_current(scooter, message, retained) then
    if message.s == 'lost' then will(scooter) else goodbye(scooter, message, retained) end
  end
end

local VERDICTS = { [1] = 'applied', [0] = 'duplicate', [-1] = 'late' }
local take = {}

function take.telemetry(scooter, entry)
  local report = report_of(entry.m, at)
  local verdict, late = fold(scooter, report, at, at_text, true)
  if verdict == 1 then seen(scooter, report) end
  if late and verdict ~= 0 then append_or_drop('late', entry.id, report_body(report)) end
  return VERDICTS[verdict]
end

function take.batch(scooter, entry)
  if is_full() then return 'full' end
  local best = -1
  for _, sample in ipairs(entry.s) do
    best = math.max(best, (fold(scooter, report_of(cjson.decode(sample), at), at, at_text, false)))
    append('late', entry.id, sample)
  end
  if entry.b then append('reject', entry.id, entry.b) end
  return VERDICTS[best]
end

function take.event(scooter, entry)
  if is_full() then return 'full' end
  local report = report_of(cjson.decode(entry.b), at)
  if fold(scooter, report, at, at_text, false) == 1 then seen(scooter, report) end
  append('event', entry.id, entry.b)
  return 'event'
end

function take.ack(scooter, entry)
  local report = report_of(entry.m, at)
  if fold(scooter, report, at, at_text, true) == 1 then seen(scooter, report) end
  return 'ack'
end

function take.status(scooter, entry)
  status(scooter, entry.m, entry.r)
  return 'presence'
end

function take.cleared()
  return 'presence'
end

local scooters, outcomes = {}, {}

-- A hash that someone else's hand made unreadable must not stop the others: it is foreign too.
local function taken(entry)
  local scooter = scooters[entry.id]
  if scooter == nil then
    scooter = load_scooter(entry.id) or false
    scooters[entry.id] = scooter
  end
  if not scooter then return 'foreign' end
  local is_taken, outcome = pcall(take[entry.k], scooter, entry)
  if is_taken then return outcome end
  if type(outcome) == 'table' then error(outcome) end -- Redis itself refused
  scooters[entry.id] = false
  return 'foreign'
end

for index, entry in ipairs(input.entries) do
  if entry.k == 'reject' then
    append_or_drop('reject', entry.id, entry.b)
    outcomes[index] = 'rejected'
  else
    outcomes[index] = taken(entry)
  end
end

local changed, moved = {}, {}
-- What an entry before the unreadable one changed is not stored either.
for index, entry in ipairs(input.entries) do
  if entry.k ~= 'reject' and scooters[entry.id] == false then outcomes[index] = 'foreign' end
end
for id, scooter in pairs(scooters) do
  if scooter and scooter.changed then
    store(scooter, told)
    changed[#changed + 1] = id
    if scooter.moved then moved[#moved + 1] = scooter end
  end
end
mark_dirty(changed)
index_positions(moved)
local last_seen = {}
for index, id in ipairs(heard_ids) do
  last_seen[index * 2 - 1], last_seen[index * 2] = at_text, id
end
if #last_seen > 0 then redis.call('ZADD', 'scooters:last_seen', unpack(last_seen)) end
if appended > 0 then redis.call('INCRBY', 'scooters:history_bytes', integer(appended)) end
return { outcomes, dropped }
