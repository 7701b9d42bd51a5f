-- sweep: judge the presence of the scooters whose silence has become remarkable.
--
-- ARGV: now in ms, most scooters to look at, ms of silence until stale. Returns what each of
-- them became, as {presence, presence, ...}; fewer than asked for means that none is left.

local at, stale_after_ms = tonumber(ARGV[1]), tonumber(ARGV[3])
local told = redis.call('PUBSUB', 'NUMSUB', 'scooters:changes')[2] > 0
local became, changed = {}, {}

-- A will may be taken before the report that was said before it: sessions are read apart.
local OVERTAKEN_MS = 1000

local function judge(scooter)
  local heard_at = tonumber(field(scooter, 'received_at') or '0')
  local internal = internal_of(scooter)
  if internal.lost_at then
    local silent = heard_at < internal.lost_at + OVERTAKEN_MS
    internal.lost_at = nil
    keep_internal(scooter)
    if silent then
      set_presence(scooter, 'lost', at)
      return
    end
  end
  if scooter.presence ~= 'online' then return end
  local since = math.max(heard_at, tonumber(field(scooter, 'presence_at') or '0'))
  if silent_until(scooter, since, stale_after_ms) <= at then
    set_presence(scooter, 'stale', at)
  else
    watch_silence(scooter, since, stale_after_ms)
  end
end

local due = redis.call(
  'ZRANGEBYSCORE', 'scooters:deadlines', '-inf', integer(at), 'LIMIT', 0, tonumber(ARGV[2])
)
for index, id in ipairs(due) do
  redis.call('ZREM', 'scooters:deadlines', id)
  local scooter = load_scooter(id)
  if scooter and scooter.version > 0 then
    judge(scooter)
    if scooter.changed then
      store(scooter, told)
      changed[#changed + 1] = id
    end
  end
  became[index] = scooter and scooter.presence or 'unknown'
end
mark_dirty(changed)
return became
