-- claim: take some dirty scooters for one snapshot writer, with their states.
--
-- ARGV: only marks older than this (ms of Redis), most scooters, ms that the claim holds.
-- Returns {id, {field, value, ...}, ...}. A claim that ran out may be taken by another writer;
-- both then write the same row.

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local wanted, skipped, claimed = tonumber(ARGV[2]), 0, {}
repeat
  local due = redis.call(
    'ZRANGEBYSCORE', 'scooters:dirty', '-inf', '(' .. ARGV[1], 'LIMIT', skipped, wanted
  )
  for _, id in ipairs(due) do
    local held_until = tonumber(redis.call('ZSCORE', 'scooters:claimed', id) or '0')
    if held_until <= now_ms and #claimed < wanted * 2 then
      redis.call('ZADD', 'scooters:claimed', now_ms + tonumber(ARGV[3]), id)
      claimed[#claimed + 1] = id
      local state = redis.pcall('HGETALL', 'scooter:' .. id)
      claimed[#claimed + 1] = state.err and {} or state -- nothing, where the key is not ours
    end
  end
  skipped = skipped + #due
until #due < wanted or #claimed >= wanted * 2
return claimed
