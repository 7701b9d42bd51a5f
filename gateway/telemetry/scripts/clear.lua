-- clear: the marks of scooters whose snapshot is committed, where nothing came since.
--
-- ARGV: id, written version, id, version, ... A scooter that moved on stays dirty from now.

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
for index = 1, #ARGV, 2 do
  local id, written = ARGV[index], ARGV[index + 1]
  local version = redis.pcall('HGET', 'scooter:' .. id, 'version')
  if not version or type(version) == 'table' or version == written then
    redis.call('ZREM', 'scooters:dirty', id)
  else
    redis.call('ZADD', 'scooters:dirty', 'XX', now_ms, id)
  end
  redis.call('ZREM', 'scooters:claimed', id)
end
