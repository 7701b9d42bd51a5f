-- refill: put states from Postgres back where Redis has none or an older one.
--
-- ARGV: JSON [{id = , fields = {name = text}}], ms of silence until stale. Returns how many
-- were put back. A refilled state is not dirty: Postgres has it.

local stale_after_ms = tonumber(ARGV[2])
local moved = {}

local function put_back(scooter, fields)
  local set = {}
  for name, value in pairs(fields) do
    if type(value) == 'string' then
      set[#set + 1] = name
      set[#set + 1] = value
    end
  end
  redis.call('DEL', scooter.key)
  redis.call('HSET', scooter.key, unpack(set))
  scooter.fields = fields
  moved[#moved + 1] = scooter
  local heard_at = tonumber(fields.received_at)
  if heard_at then redis.call('ZADD', 'scooters:last_seen', integer(heard_at), scooter.id) end
  -- A will that was not judged yet is judged by its deadline, too.
  if fields.presence == 'online' or internal_of(scooter).lost_at then
    watch_silence(scooter, heard_at or tonumber(fields.presence_at) or now_ms, stale_after_ms)
  end
end

for _, row in ipairs(cjson.decode(ARGV[1])) do
  local scooter, version = load_scooter(row.id), tonumber(row.fields.version)
  if scooter and version and scooter.version < version then put_back(scooter, row.fields) end
end
index_positions(moved)
return #moved
