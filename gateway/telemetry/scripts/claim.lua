-- claim: take some dirty scooters for one snapshot writer, with their states.
--
-- ARGV: only marks older than this (ms of Redis), most scooters, ms that the claim holds.
-- Returns a text each, `id NUL field NUL value …`: NUL is in no message, and one text costs a third
-- of a list. A claim that ran out may be taken by another writer; both then write the same row.

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local wanted, held_for = tonumber(ARGV[2]), now_ms + tonumber(ARGV[3])
local skipped, claimed, claims = 0, {}, {}
repeat
  local due = redis.call(
    'ZRANGEBYSCORE', 'scooters:dirty', '-inf', '(' .. ARGV[1], 'LIMIT', skipped, wanted
  )
  for _, id in ipairs(due) do
    local held_until = tonumber(redis.call('ZSCORE', 'scooters:claimed', id) or '0')
    if held_until <= now_ms and #claimed < wanted then
      claims[#claims + 1], claims[#claims + 2] = held_for, id
      local state = redis.pcall('HGETALL', 'scooter:' .. id)
      -- Nothing but the id where the key is not ours, or no more.
      local is_state = not state.err and #state > 0
      claimed[#claimed + 1] = is_state and id .. '\0' .. table.concat(state, '\0') or id
    end
  end
  skipped = skipped + #due
until #due < wanted or #claimed >= wanted
if #claims > 0 then redis.call('ZADD', 'scooters:claimed', unpack(claims)) end
return claimed
