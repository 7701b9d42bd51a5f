-- reset_order: forget what one scooter's reports were compared with; the next one is newer.
--
-- ARGV: id. Returns 1, or 0 when there is no such state.

local scooter = load_scooter(ARGV[1])
if not scooter or scooter.version == 0 then return 0 end
internal_of(scooter).boots = {}
internal_of(scooter).firmware = nil
internal_of(scooter).life = nil
keep_internal(scooter)
for group in pairs(ORDERS) do put(scooter, group .. '_order', false) end
put(scooter, 'boot', false)
put(scooter, 'uptime_boot', false)
put(scooter, 'aside', false)
store(scooter, true)
mark_dirty({ ARGV[1] })
return 1
