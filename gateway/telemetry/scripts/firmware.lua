-- The firmware that a birth told, shown until a device group of its boot or a later one comes.
--
-- A birth sends one field of the device group, not the group: what the group itself said stays in
-- `internal.firmware.own`, so that it may be set aside and come back as it was.

local SHOWN = '2'

local function mark_firmware(scooter, digit)
  local text = scooter.stored[ORDERS.device]
  text = string.sub(text, 1, -2) .. digit
  scooter.stored[ORDERS.device], scooter.orders.device = text, nil
  put(scooter, 'device_order', text)
end

local function is_shown(scooter)
  return string.sub(scooter.stored[ORDERS.device] or '', -1) == SHOWN
end

-- The firmware of the device group itself; false when it has none.
local function own_firmware(scooter)
  if is_shown(scooter) then
    local told = internal_of(scooter).firmware
    return told and told.own or false
  end
  return field(scooter, 'firmware')
end

show_firmware = function(scooter)
  local told, device = internal_of(scooter).firmware, order_in(scooter, 'device')
  if not told then return end
  if not device then return put(scooter, 'firmware', told.text) end
  local own = own_firmware(scooter)
  local of_former_life = device[2] < 0 and told.boot == device[1]
  if device[1] >= 0 and (of_former_life or later_boot(scooter, told.boot, device[1])) then
    told.own = own or nil
    put(scooter, 'firmware', told.text)
    mark_firmware(scooter, SHOWN)
    keep_internal(scooter)
  elseif is_shown(scooter) then
    put(scooter, 'firmware', own)
    mark_firmware(scooter, own and '1' or '0')
  end
end

local function tell_firmware(scooter, boot, text)
  local device = order_in(scooter, 'device')
  if boot and (not device or device[1] >= 0) then
    local own = device and own_firmware(scooter) or nil
    internal_of(scooter).firmware = { boot = boot, text = text, own = own or nil }
    keep_internal(scooter)
    show_firmware(scooter)
  else
    put(scooter, 'firmware', text)
    if device then mark_firmware(scooter, '1') end
  end
end
