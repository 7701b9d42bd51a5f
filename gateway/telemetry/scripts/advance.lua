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

local function given(value)
  if value == cjson.null then return nil end
  return value
end

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

-- A report as its scooter sent it, but for a clock that is not believed.
local function report_body(report)
  local order, body = report.o, {}
  if order[2] >= 0 then body.boot, body.seq = order[1], order[2] end
  if order[3] > 0 then body.ts = order[3] end
  if report.u then body.up = report.u[2] end
  for group, texts in pairs(report.g) do
    for index, text in ipairs(texts) do
      local wire = WIRES[group][index]
      if text and not IS_TEXT[wire] then text = cjson.decode('[' .. text .. ']')[1] end
      body[wire] = text or nil
    end
  end
  return next(body) and cjson.encode(body) or '{}'
end

local function heard(scooter)
  put(scooter, 'received_at', at_text)
  heard_ids[#heard_ids + 1] = scooter.id
end

local function wake(scooter)
  local came_back = set_presence(scooter, 'online', at)
  if came_back or scooter.paced then watch_silence(scooter, at, stale_after_ms) end
end

-- A report that was on its way when the scooter said goodbye does not bring it back.
local function stays_asleep(scooter, uptime)
  if scooter.presence ~= 'sleeping' and scooter.presence ~= 'offline' then return false end
  local goodbye = internal_of(scooter).goodbye
  if not goodbye or at - goodbye.at >= GRACE_MS then return false end
  return not (uptime and goodbye.up and uptime[1] == goodbye.boot and uptime[2] > goodbye.up)
end

local function seen(scooter, report)
  heard(scooter)
  if not stays_asleep(scooter, report.u) then wake(scooter) end
end

local function birth(scooter, message, retained)
  local internal = internal_of(scooter)
  local boot, interval_s = given(message.boot), given(message.ivl)
  if boot and not (retained and #internal.boots > 0) then
    make_current(scooter, boot, retained and 0 or 1)
  end
  internal.conn = { boot = boot, number = given(message.conn) }
  internal.goodbye, internal.lost_at = nil, nil
  keep_internal(scooter)
  if retained then
    set_presence(scooter, 'online', at)
    watch_silence(scooter, at, stale_after_ms)
    return
  end
  local paced, described = order_in(scooter, 'interval'), order_in(scooter, 'device')
  if interval_s and not (boot and paced and paced[1] == boot) then
    put(scooter, 'interval_s', string.format('%.15g', interval_s))
    scooter.paced = true
  end
  if given(message.fw) and not (boot and described and described[1] == boot) then
    put(scooter, 'firmware', message.fw)
  end
  if given(message.up) then fold_uptime(scooter, boot or -1, message.up, at, true) end
  heard(scooter)
  wake(scooter)
end

-- Whether a goodbye or a will belongs to the connection that we know of.
local function is_current(known, message)
  if not known then return true end
  local boot, number = given(message.boot), given(message.conn)
  if boot and known.boot and boot ~= known.boot then return false end
  return not (number and known.number) or number >= known.number
end

local function goodbye(scooter, message, retained)
  local internal = internal_of(scooter)
  if not retained then heard(scooter) end
  internal.goodbye = { at = at, boot = given(message.boot), up = given(message.up) }
  internal.lost_at = nil
  keep_internal(scooter)
  local wake_s = given(message.wake)
  put(scooter, 'wake_s', wake_s and string.format('%.15g', wake_s) or false)
  set_presence(scooter, message.s, at)
  redis.call('ZREM', 'scooters:deadlines', scooter.id)
end

local function will(scooter)
  if scooter.presence == 'lost' or internal_of(scooter).goodbye then return end
  internal_of(scooter).lost_at = at
  keep_internal(scooter)
  redis.call('ZADD', 'scooters:deadlines', integer(at + GRACE_MS), scooter.id)
end

local function status(scooter, message, retained)
  local known = internal_of(scooter).conn
  if message.s == 'online' then
    local repeated = known and scooter.presence
      and known.boot == given(message.boot) and known.number == given(message.conn)
    if not (retained and repeated) then birth(scooter, message, retained) end
  elseif is_current(known, message) then
    if message.s == 'lost' then will(scooter) else goodbye(scooter, message, retained) end
  end
end

local VERDICTS = { [1] = 'applied', [0] = 'duplicate', [-1] = 'late' }
local take = {}

function take.telemetry(scooter, entry)
  local verdict, late = fold(scooter, entry, at, true)
  if verdict == 1 then seen(scooter, entry) end
  if late and verdict ~= 0 then append_or_drop('late', entry.id, report_body(entry)) end
  return VERDICTS[verdict]
end

function take.batch(scooter, entry)
  if is_full() then return 'full' end
  local best = -1
  for _, sample in ipairs(entry.s) do
    best = math.max(best, (fold(scooter, sample, at, false)))
    append('late', entry.id, sample.b)
  end
  if entry.b then append('reject', entry.id, entry.b) end
  return VERDICTS[best]
end

function take.event(scooter, entry)
  if is_full() then return 'full' end
  if fold(scooter, entry, at, false) == 1 then seen(scooter, entry) end
  append('event', entry.id, entry.b)
  return 'event'
end

function take.ack(scooter, entry)
  if fold(scooter, entry, at, true) == 1 then seen(scooter, entry) end
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
for index, entry in ipairs(input.entries) do
  if entry.k == 'reject' then
    append_or_drop('reject', entry.id, entry.b)
    outcomes[index] = 'rejected'
  else
    local scooter = scooters[entry.id] or load_scooter(entry.id)
    scooters[entry.id] = scooter
    outcomes[index] = scooter and take[entry.k](scooter, entry) or 'foreign'
  end
end

local changed = {}
for id, scooter in pairs(scooters) do
  if scooter.changed then
    store(scooter, told)
    changed[#changed + 1] = id
  end
end
mark_dirty(changed)
local last_seen = {}
for index, id in ipairs(heard_ids) do
  last_seen[index * 2 - 1], last_seen[index * 2] = at_text, id
end
if #last_seen > 0 then redis.call('ZADD', 'scooters:last_seen', unpack(last_seen)) end
if appended > 0 then redis.call('INCRBY', 'scooters:history_bytes', integer(appended)) end
return { outcomes, dropped }
