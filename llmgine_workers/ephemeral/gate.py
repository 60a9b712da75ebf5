"""One question to Redis before every call: pause, breaker, limits and slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from llmgine_workers.ephemeral.breaker_store import keys_of
from llmgine_workers.ephemeral.connection import Argument, Ephemeral, Script
from llmgine_workers.ephemeral.pauses import pause_key
from llmgine_workers.ephemeral.rules import Charge, Rule, Window
from llmgine_workers.ephemeral.window_script import LIBRARY
from llmgine_workers.ephemeral.windows import epoch_key, rule_key

PROBE_LOOK_MS = 1000
"""While a probe is out, those who were refused look again this often."""
IN_FLIGHT_LOOK_MS = 1000
"""Nobody knows when a call will end; those who found no slot look again this often."""
LARGE_SHARE = 0.05
"""A call that asks for more of a limit than this may claim the next room: smaller ones
would take it piece by piece for ever."""
CLAIM_GRACE_MS = 10_000
"""A claimant that does not come back so long after its room was there has lost it."""
LEARNED_MARGIN = 1.25
"""On top of the mean share that calls use of their upper bound."""


@dataclass(frozen=True)
class Asked:
    """One call: who it is, how long it may take, and what it would use.

    `call` names this very attempt, for its leases; `step` sorts by age and outlives
    refusals, for its claims; `probe` is the token it takes if it is to be the probe.
    """

    provider: str
    model: str
    call: str
    step: str
    probe: str
    lease_s: float
    charges: tuple[Charge, ...] = ()


@dataclass(frozen=True)
class Reservation:
    """What was counted, and when by the server's clock (ms since the epoch).

    `left` is what each rule had after it. `bounds` are the charges as they were asked
    for; in learned rules less may have been counted.
    """

    call: str
    at_ms: int
    charges: tuple[Charge, ...]
    bounds: tuple[int, ...]
    left: tuple[int, ...]
    is_probe: bool = False


@dataclass(frozen=True)
class Closed:
    """The provider asked for a pause, or the model's breaker is open."""

    reason: str
    seconds: float


@dataclass(frozen=True)
class Refused:
    """Which rule had no room, and when it has; None: it never has that much."""

    rule: Rule
    retry_after_s: float | None


@dataclass(frozen=True)
class Lost:
    """Redis was emptied since this process last counted; `epoch` is its new one."""

    epoch: str


# KEYS: epoch, pause, the breaker's state and probe, then one per rule.
# ARGV: known epoch, new epoch, probe's token and lease, call, its lease, step, then six
# per rule: kind, slot_ms, slots, limit, amount, learned.
#
# A claim is room that only its step may use. The oldest large step that was refused
# holds it; an older one takes it over, so that no two wait for each other.
_ADMIT = Script(
    LIBRARY
    + f"""
local FIRST, EACH = 7, 6
local now, step = clock(), ARGV[7]
local epoch = redis.call('GET', KEYS[1])
if not epoch then
  epoch = ARGV[2]
  redis.call('SET', KEYS[1], epoch)
end
if ARGV[1] ~= '' and epoch ~= ARGV[1] then return {{'lost', epoch}} end

local paused = redis.call('PTTL', KEYS[2])
if paused > 0 then return {{'provider_pause', epoch, paused}} end

local probing, opens = 0, redis.call('HGET', KEYS[3], 'until')
if opens then
  local left = opens - now
  if left <= 0 then left = math.min(redis.call('PTTL', KEYS[4]), {PROBE_LOOK_MS}) end
  if left > 0 then return {{'breaker', epoch, left}} end
  probing = 1
end

local longest, blocker, never, found = 0, 0, 0, {{}}
for i = 5, #KEYS do
  local key, a = KEYS[i], FIRST + EACH * (i - 5)
  local limit, amount = tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
  local wait = 0
  if ARGV[a + 1] == 'lease' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    found[i] = {{amount, limit - redis.call('ZCARD', key) - amount}}
    if found[i][2] < 0 then wait = {IN_FLIGHT_LOOK_MS} end
  else
    local slot_ms, slots = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
    local slot = math.floor(now / slot_ms)
    local used, kept, gone, notes = counters(key, slot, slots)
    tidy(key, slot, kept, gone)
    if amount > limit then never = i end
    if ARGV[a + 6] == '1' then
      local share = (notes.ratio or 1) * {LEARNED_MARGIN}
      amount = math.ceil(amount * math.min(1, share))
    end
    local large = amount > limit * {LARGE_SHARE}
    local head, held = claim_of(notes, now)
    if head and (head == step or (large and step < head)) then held = 0 end
    local excess = used + amount + held - limit
    if excess > 0 then
      wait = wait_ms(kept, excess, slots, slot_ms, now)
      if wait < 0 then wait = (notes.head_until or now) - now end
      if large and held == 0 and never == 0 then
        redis.call('HSET', key, 'head', step, 'head_units', amount,
          'head_until', whole(now + wait + {CLAIM_GRACE_MS}))
        redis.call('PEXPIRE', key, slot_ms * (slots + 1) + {CLAIM_GRACE_MS})
      end
    end
    found[i] = {{amount, limit - used - amount, notes, head}}
  end
  if wait > 0 and wait >= longest then longest, blocker = wait, i end
end
if never > 0 then return {{'limit', epoch, never - 5, -1}} end
if blocker > 0 then return {{'limit', epoch, blocker - 5, longest}} end

if probing == 1 then redis.call('SET', KEYS[4], ARGV[3], 'PX', ARGV[4]) end
local reply = {{'admitted', epoch, now, probing}}
for i = 5, #KEYS do
  local key, a = KEYS[i], FIRST + EACH * (i - 5)
  local amount, left, notes, head = unpack(found[i])
  if ARGV[a + 1] == 'lease' then
    redis.call('ZADD', key, whole(now + ARGV[6]), ARGV[5])
    if redis.call('PTTL', key) < tonumber(ARGV[6]) then
      redis.call('PEXPIRE', key, ARGV[6])
    end
  else
    local slot_ms = tonumber(ARGV[a + 2])
    redis.call('HINCRBY', key, whole(math.floor(now / slot_ms)), amount)
    if amount ~= 1 or notes.mean then
      local mean = notes.mean or amount
      redis.call('HSET', key, 'mean', whole(mean + (amount - mean) / 16))
    end
    if head == step then
      redis.call('HDEL', key, 'head', 'head_units', 'head_until')
    end
    redis.call('PEXPIRE', key, slot_ms * (ARGV[a + 3] + 1) + {CLAIM_GRACE_MS})
  end
  reply[#reply + 1] = amount
  reply[#reply + 1] = left
end
return reply
"""
)


class Gate:
    """The gate before every call, as all workers share it.

    `epoch` is that of the Redis it counted in, empty before the first call: one that
    was emptied has another, and says so before it admits anything.
    """

    def __init__(self, ephemeral: Ephemeral) -> None:
        self._ephemeral = ephemeral
        self.epoch = ""

    async def admit(
        self, asked: Asked, *, probe_lease_s: float
    ) -> Reservation | Closed | Refused | Lost:
        """Count all charges and take the probe if there is one to be made, or nothing.

        Raises EphemeralDown; the charges may have been counted all the same.
        """
        keys = [
            epoch_key(self._ephemeral),
            pause_key(self._ephemeral, asked.provider),
            *keys_of(self._ephemeral, asked.provider, asked.model)[:2],
            *(rule_key(self._ephemeral, charge.rule) for charge in asked.charges),
        ]
        arguments: list[Argument] = [
            *(self.epoch, asked.probe, asked.probe, int(probe_lease_s * 1000)),
            *(asked.call, max(1, int(asked.lease_s * 1000)), asked.step),
        ]
        for charge in asked.charges:
            arguments += _shape(charge)
        reply = await self._ephemeral.run(_ADMIT, keys, *arguments)
        return self._read(asked, reply)

    async def present_epoch(self) -> str:
        """The epoch of the Redis that answers now. Raises EphemeralDown."""
        key = epoch_key(self._ephemeral)
        await self._ephemeral.command("SET", key, uuid4().hex, "NX")
        found: bytes = await self._ephemeral.command("GET", key)
        return found.decode()

    def _read(
        self, asked: Asked, reply: Sequence[Any]
    ) -> Reservation | Closed | Refused | Lost:
        word, epoch = reply[0].decode(), reply[1].decode()
        if word == "lost":
            return Lost(epoch)
        self.epoch = epoch
        if word == "limit":
            rule = asked.charges[reply[2]].rule
            return Refused(rule, None if reply[3] < 0 else reply[3] / 1000)
        if word == "admitted":
            return _reservation(asked, reply)
        return Closed(word, reply[2] / 1000)


def _reservation(asked: Asked, reply: Sequence[Any]) -> Reservation:
    counted, left = reply[4::2], reply[5::2]
    return Reservation(
        asked.call,
        reply[2],
        tuple(
            Charge(charge.rule, amount)
            for charge, amount in zip(asked.charges, counted, strict=True)
        ),
        tuple(charge.amount for charge in asked.charges),
        tuple(left),
        is_probe=reply[3] == 1,
    )


def _shape(charge: Charge) -> tuple[Argument, ...]:
    rule = charge.rule
    if isinstance(rule, Window):
        learned = int(rule.learned)
        shape = rule.slot_ms, rule.slots, rule.limit, charge.amount, learned
        return ("window", *shape)
    return ("lease", 0, 0, rule.limit, charge.amount, 0)
