-- claim: take some dirty scooters for one snapshot writer, with their states.
--
-- ARGV: only marks older than this (ms of Redis), most scooters, ms that the claim holds, and how
-- many of the oldest marks to pass over unlooked at, because this writer holds about as many.
-- Returns a text each, `field NUL value NUL … id`: NUL is in no message, and one text costs a third
-- of a list. A claim that ran out may be taken by another writer; both then write the same row.

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local wanted = tonumber(ARGV[2])
local until_ms = string.format('%.0f', now_ms + tonumber(ARGV[3]))
local skipped, claimed, claims = tonumber(ARGV[4]), {}, {}
repeat
  local due = redis.call(
    'ZRANGEBYSCORE', 'scooters:dirty', '-inf', '(' .. ARGV[1], 'LIMIT', skipped, wanted
  )
  local held = #due > 0 and redis.call('HMGET', 'scooters:claims', unpack(due))
  for index, id in ipairs(due) do
    local held_until = tonumber(held[index] or nil) or 0
    if held_until <= now_ms and #claimed < wanted then
      claims[#claims + 1], claims[#claims + 2] = id, until_ms
      local state = redis.pcall('HGETALL', 'scooter:' .. id)
      -- Nothing but the id where the key is not ours, or no more.
      if state.err then state = {} end
      state[#state + 1] = id
      claimed[#claimed + 1] = table.concat(state, '\0')
    end
  end
  skipped = skipped + #due
until #due < wanted or #claimed >= wanted
if #claims > 0 then redis.call('HSET', 'scooters:claims', unpack(claims)) end
return claimed
