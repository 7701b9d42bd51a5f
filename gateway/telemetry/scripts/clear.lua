-- clear: the marks of scooters whose snapshot is committed, where nothing came since.
--
-- ARGV: JSON [id, written version, id, …], which as arguments would cost the client more. A scooter
-- that moved on stays dirty from now.

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local written, clean, moved_on = {}, {}, {}
local said = cjson.decode(ARGV[1])
for index = 1, #said, 2 do
  local id = said[index]
  local version = redis.pcall('HGET', 'scooter:' .. id, 'version')
  written[#written + 1] = id
  if type(version) == 'string' and version ~= said[index + 1] then
    moved_on[#moved_on + 1], moved_on[#moved_on + 2] = now_ms, id
  else
    clean[#clean + 1] = id
  end
end
if #moved_on > 0 then redis.call('ZADD', 'scooters:dirty', 'XX', unpack(moved_on)) end
if #clean > 0 then redis.call('ZREM', 'scooters:dirty', unpack(clean)) end
if #written > 0 then redis.call('HDEL', 'scooters:claims', unpack(written)) end
