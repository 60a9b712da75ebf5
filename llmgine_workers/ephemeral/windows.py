"""Limits over all workers: sliding windows that are overshot in no interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmgine_workers.ephemeral.connection import Argument, Ephemeral, Script

COUNTERS_PER_WINDOW = 120
"""With two more and the slack they fit in one 128-entry listpack of Redis: 2 KB."""
SLACK_S = 1.0
"""Calls start a little after they were admitted; so much later is still no overshoot."""
SLACK_SHARE = 0.02
"""... but never more of a window than this, so that short windows stay usable."""


@dataclass(frozen=True)
class Rule:
    """At most `limit` units in any `window_s` seconds. `name` is for people.

    `bucket` tells its counters from others' and must not hold the limit, so that
    workers with an older setting count in the same place.
    """

    name: str
    bucket: str
    limit: int
    window_s: float

    @property
    def slot_ms(self) -> int:
        """Milliseconds that one counter stands for."""
        return math.ceil(self.window_s * 1000 / COUNTERS_PER_WINDOW)

    @property
    def slots(self) -> int:
        """Counters that are summed.

        An interval of the window's length and its slack touches at most so many, so
        a sum within the limit means that no such interval was overshot.
        """
        slack_s = min(SLACK_S, SLACK_SHARE * self.window_s)
        return math.ceil((self.window_s + slack_s) * 1000 / self.slot_ms) + 1


@dataclass(frozen=True)
class Charge:
    """So many units of a rule: 1 request, 1,200 tokens."""

    rule: Rule
    amount: int = 1


@dataclass(frozen=True)
class Reservation:
    """What was counted, and when by the server's clock (ms since the epoch)."""

    at_ms: int
    charges: tuple[Charge, ...]


@dataclass(frozen=True)
class Refused:
    """Which rule had no room, and when it has; None: it never has that much."""

    rule: Rule
    retry_after_s: float | None


@dataclass(frozen=True)
class Usage:
    """Units used some seconds ago, to be counted where they belong."""

    rule: Rule
    amount: int
    age_s: float


# A counter in the future is left over from before the server's clock was set back; it
# moves to now, or it would close the window until the clock has caught up.
_LIBRARY = """
local function clock()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
local function counters(key, slot, slots)
  local used, kept, gone, all = 0, {}, {}, redis.call('HGETALL', key)
  for f = 1, #all, 2 do
    local s, units = tonumber(all[f]), tonumber(all[f + 1])
    if s <= slot - slots then
      gone[#gone + 1] = all[f]
    else
      used = used + units
      kept[#kept + 1] = {math.min(s, slot), units, all[f]}
    end
  end
  return used, kept, gone
end
local function wait_ms(kept, excess, slots, slot_ms, now)
  table.sort(kept, function(a, b) return a[1] < b[1] end)
  for _, counter in ipairs(kept) do
    excess = excess - counter[2]
    if excess <= 0 then return (counter[1] + slots) * slot_ms - now end
  end
  return -1
end
"""

_RESERVE = Script(
    _LIBRARY
    + """
local now, longest, blocker = clock(), 0, 0
for i, key in ipairs(KEYS) do
  local a = 4 * (i - 1)
  local slot_ms, slots = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local limit, amount = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local slot = math.floor(now / slot_ms)
  local used, kept, gone = counters(key, slot, slots)
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  for _, counter in ipairs(kept) do
    if tonumber(counter[3]) > slot then
      redis.call('HDEL', key, counter[3])
      redis.call('HINCRBY', key, slot, counter[2])
    end
  end
  if used + amount > limit then
    local wait = wait_ms(kept, used + amount - limit, slots, slot_ms, now)
    if wait < 0 then return {0, i, -1} end
    if wait >= longest then longest, blocker = wait, i end
  end
end
if blocker > 0 then return {0, blocker, longest} end
for i, key in ipairs(KEYS) do
  local a = 4 * (i - 1)
  local slot_ms = tonumber(ARGV[a + 1])
  redis.call('HINCRBY', key, math.floor(now / slot_ms), ARGV[a + 4])
  redis.call('PEXPIRE', key, slot_ms * (ARGV[a + 2] + 1))
end
return {1, now}
"""
)

_ADD = Script(
    _LIBRARY
    + """
local now = clock()
for i, key in ipairs(KEYS) do
  local a = 4 * (i - 1)
  local slot_ms, slots = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local slot = math.floor((now - ARGV[a + 3]) / slot_ms)
  if slot > math.floor(now / slot_ms) - slots then
    redis.call('HINCRBY', key, slot, ARGV[a + 4])
    redis.call('PEXPIRE', key, slot_ms * (slots + 1))
  end
end
"""
)

# Never below zero: the counter may have been lost and begun again since.
_REFUND = Script("""
for i, key in ipairs(KEYS) do
  local a = 3 * (i - 1)
  local slot = string.format('%.0f', math.floor(ARGV[a + 2] / ARGV[a + 1]))
  local units = tonumber(redis.call('HGET', key, slot) or 0)
  local back = math.min(units, tonumber(ARGV[a + 3]))
  if back > 0 then redis.call('HINCRBY', key, slot, -back) end
end
""")

_ROOM = Script(
    _LIBRARY
    + """
local now, room = clock(), -1
for i, key in ipairs(KEYS) do
  local a = 3 * (i - 1)
  local slot_ms, slots = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local used = counters(key, math.floor(now / slot_ms), slots)
  local left = math.max(0, ARGV[a + 3] - used)
  if room < 0 or left < room then room = left end
end
return room
"""
)


class Windows:
    """The counters of every rule, one hash each, all of a call in one Lua call."""

    def __init__(self, ephemeral: Ephemeral) -> None:
        self._ephemeral = ephemeral

    async def reserve(self, charges: Sequence[Charge]) -> Reservation | Refused:
        """Count all charges, or none if one has no room. Raises EphemeralDown.

        After EphemeralDown the charges may have been counted all the same.
        """
        reply = await self._ephemeral.run(
            _RESERVE,
            [self._key(charge.rule) for charge in charges],
            *(
                argument
                for charge in charges
                for argument in (*_shape(charge.rule), charge.rule.limit, charge.amount)
            ),
        )
        if reply[0] == 1:
            return Reservation(reply[1], tuple(charges))
        never = reply[2] < 0
        return Refused(charges[reply[1] - 1].rule, None if never else reply[2] / 1000)

    async def refund(self, reservation: Reservation) -> None:
        """Give the units back to the moment that reserved them. Raises EphemeralDown."""
        arguments: list[Argument] = []
        for charge in reservation.charges:
            arguments += (charge.rule.slot_ms, reservation.at_ms, charge.amount)
        keys = [self._key(charge.rule) for charge in reservation.charges]
        await self._ephemeral.run(_REFUND, keys, *arguments)

    async def add(self, used: Sequence[Usage]) -> None:
        """Count what happened already, limit or not. Raises EphemeralDown."""
        arguments: list[Argument] = []
        for usage in used:
            arguments += (*_shape(usage.rule), int(usage.age_s * 1000), usage.amount)
        await self._ephemeral.run(
            _ADD, [self._key(usage.rule) for usage in used], *arguments
        )

    async def room(self, rules: Sequence[Rule]) -> int:
        """Units that would be admitted now by all of them. Raises EphemeralDown."""
        arguments: list[Argument] = []
        for rule in rules:
            arguments += (*_shape(rule), rule.limit)
        left: int = await self._ephemeral.run(
            _ROOM, [self._key(rule) for rule in rules], *arguments
        )
        return left

    def _key(self, rule: Rule) -> str:
        return self._ephemeral.key("limit", f"{rule.bucket}:{rule.slot_ms}ms")


def _shape(rule: Rule) -> tuple[int, int]:
    return rule.slot_ms, rule.slots
