-- A boot number that is used again: the counter was erased, and the scooter began another life.
--
-- Only a birth tells it, by an `up` below what is known of that boot. The same is true of a birth
-- that its reports overtook, but not by much, and its scooter was not silent for as long as `up`.

local LIFE_GAP_MS = 30000
local STRAGGLING_MS = 60000

local function known_up(scooter, boot)
  if tonumber(scooter.stored[5] or nil) == boot then return tonumber(scooter.stored[4] or nil) end
  local groups = aside_of(scooter)[integer(boot)]
  return groups and groups.uptime and groups.uptime.up
end

-- The latest moment at which a boot can have told `up`. Reports that waited at the broker are
-- heard later than they were said, so the birth before, if there is one, is asked as well.
local function told_at(scooter, boot, up)
  local heard_at = tonumber(field(scooter, 'received_at') or nil) or 0
  local born = internal_of(scooter).conn
  if not (born and born.boot == boot and born.up) then return heard_at end
  return math.min(heard_at, born.at - born.up + up)
end

-- Nothing of the former life is newer than what comes; its values are shown until then.
local function forget_orders(scooter, boot)
  for group in pairs(ORDERS) do
    local order = order_in(scooter, group)
    if order and order[1] == boot then
      -- Without an order of its own the next report is not folded before `is_of_former_life`.
      local text = group ~= 'report' and order_text({ boot, -1, order[3] }) .. order[4]
      scooter.stored[ORDERS[group]], scooter.orders[group] = text, nil
      put(scooter, group .. '_order', text)
    end
  end
end

-- For a live birth, before its boot becomes the current one.
local function judge_life(scooter, boot, up, at)
  local internal, known = internal_of(scooter), known_up(scooter, boot)
  internal.life = nil
  if not known or known - up <= LIFE_GAP_MS then return end
  local ended_at = told_at(scooter, boot, known)
  if at - up <= ended_at then return end
  internal.life = { boot = boot, at = at, after = ended_at }
  forget_aside(scooter, boot)
  forget_orders(scooter, boot)
end

-- Reports have a session of their own: what a life said last may come behind the next one's
-- birth. Not for long, so that nothing is lost for good should the judgement have been wrong.
local function is_of_former_life(scooter, report, at)
  if report.o[1] < 0 or not report.u then return false end
  local life = internal_of(scooter).life
  return life and life.boot == report.o[1] and at - life.at < STRAGGLING_MS
    and report.u[2] > at - life.after
end
