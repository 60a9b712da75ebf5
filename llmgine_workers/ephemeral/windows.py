"""The counters of every limit: settled after a call, added to, and looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmgine_workers.ephemeral.connection import Argument, Ephemeral, Script
from llmgine_workers.ephemeral.rules import InFlight, Lease, Rule, Usage, Window
from llmgine_workers.ephemeral.window_script import LIBRARY

if TYPE_CHECKING:
    from llmgine_workers.ephemeral.gate import Reservation

CORRECTION_SHARE = 0.05
"""A provider that counts a little more than we do is no reason to hold calls back: its
figure and ours are of moments that lie apart."""


USUAL_CALLS = 100
"""Calls that a limit on tokens is taken to admit before anybody has seen one."""


@dataclass(frozen=True)
class Left:
    """What a rule has left now, its claim not deducted.

    `mean` is what a call reserves of it lately; `claim` is (step, units) of a large
    call that the next room belongs to.
    """

    units: int
    mean: int = 1
    claim: tuple[str, int] | None = None


# ARGV: the call, then eight per rule: kind, slot_ms, slots, limit, when it was reserved,
# how much, how much it was, how much at most (learned rules, else 0), then what was left
# by our count and by the provider's (-1: it did not say).
#
# Never below zero: a counter may have been lost and begun again since.
_SETTLE = Script(
    LIBRARY
    + f"""
local now, over = clock(), {{}}
local function correct(key, slot, slots, limit, at, left, theirs)
  local foreign = left - theirs
  if theirs < 0 or foreign <= limit * {CORRECTION_SHARE} then return end
  if at <= tonumber(redis.call('HGET', key, 'corrected') or 0) then return end
  redis.call('HINCRBY', key, slot, whole(foreign))
  redis.call('HSET', key, 'corrected', whole(now))
end
for i, key in ipairs(KEYS) do
  local a = 1 + 10 * (i - 1)
  if ARGV[a + 1] == 'lease' then
    redis.call('ZREM', key, ARGV[1])
  else
    local slot_ms, slots = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
    local limit, at = tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
    local slot, present = math.floor(at / slot_ms), math.floor(now / slot_ms)
    local change = ARGV[a + 7] - ARGV[a + 6]
    if change < 0 then
      local units = tonumber(redis.call('HGET', key, whole(slot)) or 0)
      local back = math.min(units, -change)
      if back > 0 then redis.call('HINCRBY', key, whole(slot), whole(-back)) end
    elseif change > 0 and slot > present - slots then
      redis.call('HINCRBY', key, whole(slot), whole(change))
      redis.call('PEXPIRE', key, slot_ms * (slots + 1))
      local used = counters(key, present, slots)
      if used > limit then
        over[#over + 1] = i - 1
        over[#over + 1] = used - limit
      end
    end
    local bound = tonumber(ARGV[a + 8])
    if bound > 0 and redis.call('EXISTS', key) == 1 then
      local ratio = tonumber(redis.call('HGET', key, 'ratio') or 1)
      ratio = ratio + (ARGV[a + 7] / bound - ratio) / 8
      redis.call('HSET', key, 'ratio', string.format('%.4f', ratio))
    end
    correct(key, whole(present), slots, limit, at, tonumber(ARGV[a + 9]),
      tonumber(ARGV[a + 10]))
  end
end
return over
"""
)

# ARGV: when it was reserved, then three per rule: slot_ms (of a lease 0), slots, amount.
#
# What counts already only counts longer, so no sum of a window grows; a reservation that
# has left the window, or was lost, is counted anew.
_MOVE = Script(
    LIBRARY
    + """
local now, at = clock(), tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  local a = 1 + 3 * (i - 1)
  local slot_ms, slots = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  if slot_ms > 0 then
    local from, to = math.floor(at / slot_ms), math.floor(now / slot_ms)
    local there = tonumber(redis.call('HGET', key, whole(from)) or 0)
    local gone = math.min(there, tonumber(ARGV[a + 3]))
    if gone > 0 then redis.call('HINCRBY', key, whole(from), whole(-gone)) end
    redis.call('HINCRBY', key, whole(to), ARGV[a + 3])
    redis.call('PEXPIRE', key, slot_ms * (slots + 1))
  end
end
return now
"""
)

# ARGV: four per rule: slot_ms, slots, age, amount; of a lease: 0, its call, ms left, 0.
_ADD = Script(
    LIBRARY
    + """
local now = clock()
for i, key in ipairs(KEYS) do
  local a = 4 * (i - 1)
  local slot_ms, slots = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  if slot_ms == 0 then
    redis.call('ZADD', key, whole(now + ARGV[a + 3]), ARGV[a + 2])
    if redis.call('PTTL', key) < tonumber(ARGV[a + 3]) then
      redis.call('PEXPIRE', key, ARGV[a + 3])
    end
  else
    local slot = math.floor((now - ARGV[a + 3]) / slot_ms)
    if slot > math.floor(now / slot_ms) - slots then
      redis.call('HINCRBY', key, whole(slot), ARGV[a + 4])
      redis.call('PEXPIRE', key, slot_ms * (slots + 1))
    end
  end
end
"""
)

_LEFT = Script(
    LIBRARY
    + """
local now, reply = clock(), {}
for i, key in ipairs(KEYS) do
  local a = 3 * (i - 1)
  local slot_ms, slots = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  if slot_ms == 0 then
    reply[i] = {ARGV[a + 3] - redis.call('ZCOUNT', key, now, '+inf'), 1, '', 0}
  else
    local used, _, _, notes = counters(key, math.floor(now / slot_ms), slots)
    local head, held = claim_of(notes, now)
    reply[i] = {ARGV[a + 3] - used, tonumber(notes.mean or 0), head or '', held}
  end
end
return reply
"""
)


class Windows:
    """The counters of every rule: one hash each, leases in a sorted set.

    Every method raises EphemeralDown.
    """

    def __init__(self, ephemeral: Ephemeral) -> None:
        self._ephemeral = ephemeral

    async def settle(
        self,
        reserved: Reservation,
        used: Sequence[int],
        theirs: Mapping[Rule, int] | None = None,
    ) -> list[tuple[Rule, int]]:
        """Count what a call used, rule by rule, at the moment that reserved it.

        `theirs` is what the provider says is left: a rule that believes there is more
        believes it no longer. Answers the rules that are overshot by it, and by how
        much; none is where upper bounds were reserved.
        """
        charges, theirs = reserved.charges, theirs or {}
        arguments: list[Argument] = [reserved.call]
        for at, charge in enumerate(charges):
            rule = charge.rule
            told = theirs.get(rule, -1)
            learned = isinstance(rule, Window) and rule.learned
            arguments += (*_shape(rule), rule.limit, reserved.at_ms, charge.amount)
            arguments += (used[at], reserved.bounds[at] if learned else 0)
            arguments += (reserved.left[at], told)
        keys = [rule_key(self._ephemeral, charge.rule) for charge in charges]
        over = await self._ephemeral.run(_SETTLE, keys, *arguments)
        places, excess = over[::2], over[1::2]
        return [(charges[n].rule, by) for n, by in zip(places, excess, strict=True)]

    async def move(self, reserved: Reservation) -> Reservation:
        """Count a call at this moment instead of the one that admitted it."""
        arguments: list[Argument] = [reserved.at_ms]
        for charge in reserved.charges:
            arguments += (*_shape(charge.rule)[1:], charge.amount)
        keys = [rule_key(self._ephemeral, charge.rule) for charge in reserved.charges]
        at_ms = await self._ephemeral.run(_MOVE, keys, *arguments)
        return replace(reserved, at_ms=at_ms)

    async def add(self, used: Sequence[Usage], leases: Sequence[Lease] = ()) -> None:
        """Count what happened already, limit or not."""
        arguments: list[Argument] = []
        for usage in used:
            rule, age_ms = usage.rule, int(usage.age_s * 1000)
            arguments += (rule.slot_ms, rule.slots, age_ms, usage.amount)
        for lease in leases:
            arguments += (0, lease.call, max(1, int(lease.left_s * 1000)), 0)
        rules: list[Rule] = [*(u.rule for u in used), *(one.rule for one in leases)]
        keys = [rule_key(self._ephemeral, rule) for rule in rules]
        await self._ephemeral.run(_ADD, keys, *arguments)

    async def free(self, call: str, rules: Sequence[Rule]) -> None:
        """Give back the leases of a call that is over."""
        for rule in rules:
            if isinstance(rule, InFlight):
                await self._ephemeral.command(
                    "ZREM", rule_key(self._ephemeral, rule), call
                )

    async def left(self, rules: Sequence[Rule]) -> list[Left]:
        """What each rule has left, in order; reserves nothing."""
        arguments: list[Argument] = []
        for rule in rules:
            arguments += (*_shape(rule)[1:], rule.limit)
        keys = [rule_key(self._ephemeral, rule) for rule in rules]
        found = await self._ephemeral.run(_LEFT, keys, *arguments)
        return [
            Left(
                units,
                mean or usual_amount(rule),
                (head.decode(), held) if head else None,
            )
            for rule, (units, mean, head, held) in zip(rules, found, strict=True)
        ]


def usual_amount(rule: Rule) -> int:
    """What a call is taken to need before anybody has seen one."""
    counts_calls = isinstance(rule, InFlight) or rule.unit == "requests"
    return 1 if counts_calls else max(1, rule.limit // USUAL_CALLS)


def rule_key(ephemeral: Ephemeral, rule: Rule) -> str:
    """Where a rule is counted."""
    if isinstance(rule, Window):
        return ephemeral.key("limit", f"{rule.bucket}:{rule.slot_ms}ms")
    return ephemeral.key("limit", rule.bucket)


def epoch_key(ephemeral: Ephemeral) -> str:
    """A word that an emptied Redis does not have."""
    return ephemeral.key("epoch")


def _shape(rule: Rule) -> tuple[str, int, int]:
    if isinstance(rule, Window):
        return "window", rule.slot_ms, rule.slots
    return "lease", 0, 0
