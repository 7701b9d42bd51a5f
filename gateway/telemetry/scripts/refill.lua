-- refill: put states from Postgres back where Redis has none or an older one.
--
-- ARGV: JSON [{id = , fields = {name = text}}], ms of silence until stale. Returns how many
-- were put back. A refilled state is not dirty: Postgres has it.

local stale_after_ms = tonumber(ARGV[2])
local refilled = 0
for _, row in ipairs(cjson.decode(ARGV[1])) do
  local scooter = load_scooter(row.id)
  if scooter and scooter.version < tonumber(row.fields.version) then
    local set = {}
    for name, value in pairs(row.fields) do
      set[#set + 1] = name
      set[#set + 1] = value
    end
    redis.call('DEL', scooter.key)
    redis.call('HSET', scooter.key, unpack(set))
    scooter.fields = row.fields
    index_position(scooter)
    local heard_at = row.fields.received_at
    if heard_at then redis.call('ZADD', 'scooters:last_seen', heard_at, row.id) end
    if row.fields.presence == 'online' then
      watch_silence(scooter, tonumber(heard_at or row.fields.presence_at), stale_after_ms)
    end
    refilled = refilled + 1
  end
end
return refilled
