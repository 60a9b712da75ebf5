"""The Lua that every script on the counters shares: slots, sums, waits, claims."""

from __future__ import annotations

# A rule's hash holds its counters by slot number, and by name: `mean` of what was
# reserved lately, `ratio` of use to bound (learned rules), `head*` of the claim.
#
# A counter in the future is left over from before the server's clock was set back; it
# moves to now, or it would close the window until the clock has caught up.
LIBRARY = """
local function clock()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
local function whole(number) return string.format('%.0f', number) end
local function counters(key, slot, slots)
  local used, kept, gone, notes = 0, {}, {}, {}
  local all = redis.call('HGETALL', key)
  for f = 1, #all, 2 do
    local s = tonumber(all[f])
    if not s then
      notes[all[f]] = all[f + 1]
    elseif s <= slot - slots then
      gone[#gone + 1] = all[f]
    else
      local units = tonumber(all[f + 1])
      used = used + units
      kept[#kept + 1] = {math.min(s, slot), units, all[f]}
    end
  end
  return used, kept, gone, notes
end
local function tidy(key, slot, kept, gone)
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  for _, counter in ipairs(kept) do
    if tonumber(counter[3]) > slot then
      redis.call('HDEL', key, counter[3])
      redis.call('HINCRBY', key, whole(slot), counter[2])
    end
  end
end
local function wait_ms(kept, excess, slots, slot_ms, now)
  table.sort(kept, function(a, b) return a[1] < b[1] end)
  for _, counter in ipairs(kept) do
    excess = excess - counter[2]
    if excess <= 0 then return (counter[1] + slots) * slot_ms - now end
  end
  return -1
end
local function claim_of(notes, now)
  if not notes.head or tonumber(notes.head_until) <= now then return nil, 0 end
  return notes.head, tonumber(notes.head_units)
end
"""
