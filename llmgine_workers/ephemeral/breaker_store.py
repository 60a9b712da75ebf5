"""The state of each model's breaker, shared by all workers, each change atomic."""

from __future__ import annotations

from dataclasses import dataclass

from llmgine_workers.ephemeral.connection import Argument, Ephemeral, Script

KEEP_S = 3600
"""A breaker nobody touched for so long is forgotten, which closes it."""
WINDOW_S = 10.0
"""Calls that ended longer ago say nothing about the provider's health."""
SLOT_MS = 1000

ANSWERED = "answered"
FAULT = "fault"
UNREACHABLE = "unreachable"
"""What a call that ended tells: well, failed by the provider's fault, no connection."""


@dataclass(frozen=True)
class BreakerState:
    """A breaker as it was a moment ago.

    `calls` ended and `faults` among them in the last `WINDOW_S` seconds while closed;
    `in_a_row` faults and `unreachable` ones since the last answer; `openings` since it
    was last closed; `reopens_in_s` is None while closed, else the seconds until a probe
    may go (0 or less: now); `probing_s` is how long the present probe's lease lasts.
    `mine`: the verb that answered this had its effect (opened, closed, was granted).
    """

    calls: int = 0
    faults: int = 0
    in_a_row: int = 0
    unreachable: int = 0
    openings: int = 0
    reopens_in_s: float | None = None
    probing_s: float = 0.0
    mine: bool = False

    @property
    def is_open(self) -> bool:
        """Open, or half open: only a probe may pass."""
        return self.reopens_in_s is not None


# KEYS: the state's hash (in_a_row, unreachable, openings, until), the probe's lease, the
# counters (n<slot> calls, f<slot> faults), the provider's index of what is open.
# ARGV: seconds to keep, the model.
_LIBRARY = f"""
local stamp = redis.call('TIME')
local now = stamp[1] * 1000 + math.floor(stamp[2] / 1000)
local slot = math.floor(now / {SLOT_MS})
local opened = redis.call('HEXISTS', KEYS[1], 'until') == 1
local function counts()
  local calls, faults, all = 0, 0, redis.call('HGETALL', KEYS[3])
  for i = 1, #all, 2 do
    local kind, at = string.match(all[i], '^(%a)(%d+)$')
    if math.abs(slot - at) >= {int(WINDOW_S * 1000 / SLOT_MS)} then
      redis.call('HDEL', KEYS[3], all[i])
    elseif kind == 'n' then
      calls = calls + all[i + 1]
    else
      faults = faults + all[i + 1]
    end
  end
  return calls, faults
end
local function state(granted)
  local all = redis.call('HMGET', KEYS[1], 'in_a_row', 'unreachable', 'openings', 'until')
  local closed = not all[4]
  local calls, faults = counts()
  return {{calls, faults, tonumber(all[1] or 0), tonumber(all[2] or 0),
    tonumber(all[3] or 0), closed and 1 or 0, closed and 0 or all[4] - now,
    math.max(0, redis.call('PTTL', KEYS[2])), granted or 0}}
end
local function keep()
  redis.call('EXPIRE', KEYS[1], ARGV[1])
  if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('EXPIRE', KEYS[4], ARGV[1]) end
end
"""

_LOOK = Script(_LIBRARY + "return state()")

# ARGV[3]: how calls ended; ARGV[4]: how many.
_REPORT = Script(
    _LIBRARY
    + f"""
if opened then return state() end
local function count(kind)
  redis.call('HINCRBY', KEYS[3], kind .. string.format('%.0f', slot), ARGV[4])
end
count('n')
if ARGV[3] == '{ANSWERED}' then
  if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('DEL', KEYS[1]) end
else
  count('f')
  redis.call('HINCRBY', KEYS[1], 'in_a_row', ARGV[4])
  if ARGV[3] == '{UNREACHABLE}' then
    redis.call('HINCRBY', KEYS[1], 'unreachable', ARGV[4])
  else
    redis.call('HDEL', KEYS[1], 'unreachable')
  end
  keep()
end
redis.call('PEXPIRE', KEYS[3], {int(WINDOW_S * 1000) + SLOT_MS})
return state()
"""
)

# ARGV: keep, model, token of the failed probe or '', ms until the next probe. Of many
# failures that want to open it only the first does, so the back-off grows once.
_OPEN = Script(
    _LIBRARY
    + """
local mine = ARGV[3] ~= '' and redis.call('GET', KEYS[2]) == ARGV[3]
if opened and not mine then return state() end
local opens = string.format('%.0f', now + ARGV[4])
redis.call('HDEL', KEYS[1], 'in_a_row', 'unreachable')
redis.call('HINCRBY', KEYS[1], 'openings', 1)
redis.call('HSET', KEYS[1], 'until', opens)
redis.call('HSET', KEYS[4], ARGV[2], opens)
redis.call('DEL', KEYS[2], KEYS[3])
keep()
return state(1)
"""
)

_CLOSE = Script(
    _LIBRARY
    + """
local holder = redis.call('GET', KEYS[2])
if not opened or (holder and holder ~= ARGV[3]) then return state() end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HDEL', KEYS[4], ARGV[2])
return state(1)
"""
)

_LEASE = Script(
    _LIBRARY
    + """
if not opened or now < tonumber(redis.call('HGET', KEYS[1], 'until')) then
  return state()
end
local got = redis.call('SET', KEYS[2], ARGV[3], 'NX', 'PX', ARGV[4])
if got then keep() end
return state(got and 1 or 0)
"""
)

_RELEASE = Script(
    _LIBRARY
    + """
if redis.call('GET', KEYS[2]) == ARGV[3] then redis.call('DEL', KEYS[2]) end
return state()
"""
)

# KEYS: a provider's index. ARGV: the start of its models' keys.
_SHUT = Script("""
local stamp = redis.call('TIME')
local now = stamp[1] * 1000 + math.floor(stamp[2] / 1000)
local all, found = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local key = ARGV[1] .. all[i]
  local opens = redis.call('HGET', key, 'until')
  if opens then
    local probing = redis.call('PTTL', key .. ':probe')
    found[#found + 1] = {all[i], math.max(opens - now, probing, 0)}
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return found
""")


class BreakerStore:
    """The verbs of a breaker's life; each answers the state it left behind.

    Every method raises EphemeralDown.
    """

    def __init__(self, ephemeral: Ephemeral) -> None:
        self._ephemeral = ephemeral

    async def look(self, provider: str, model: str) -> BreakerState:
        """The state, unchanged."""
        return await self._run(_LOOK, provider, model)

    async def report(
        self, provider: str, model: str, how: str, calls: int = 1
    ) -> BreakerState:
        """Count calls that ended: `ANSWERED`, `FAULT` or `UNREACHABLE`."""
        return await self._run(_REPORT, provider, model, how, calls)

    async def open(
        self, provider: str, model: str, probe: str | None, back_off_s: float
    ) -> BreakerState:
        """Open it, or open it again because this probe failed."""
        back_off_ms = int(back_off_s * 1000)
        return await self._run(_OPEN, provider, model, probe or "", back_off_ms)

    async def close(self, provider: str, model: str, probe: str) -> BreakerState:
        """Close it because this probe went well."""
        return await self._run(_CLOSE, provider, model, probe)

    async def lease(
        self, provider: str, model: str, probe: str, lease_s: float
    ) -> BreakerState:
        """Take the one probe of the cluster, if it is due and free."""
        return await self._run(_LEASE, provider, model, probe, int(lease_s * 1000))

    async def release(self, provider: str, model: str, probe: str) -> BreakerState:
        """Give the probe back undecided."""
        return await self._run(_RELEASE, provider, model, probe)

    async def shut(self, provider: str) -> dict[str, float]:
        """The provider's models that are open, and the seconds until a probe may go.

        0: now. A probe that is out counts until its lease ends.
        """
        index = self._ephemeral.key("breakers", provider)
        start = self._ephemeral.key("breaker", f"{provider}/")
        found = await self._ephemeral.run(_SHUT, [index], start)
        return {model.decode(): left / 1000 for model, left in found}

    async def _run(
        self, script: Script, provider: str, model: str, *rest: Argument
    ) -> BreakerState:
        keys = keys_of(self._ephemeral, provider, model)
        reply = await self._ephemeral.run(script, keys, KEEP_S, model, *rest)
        calls, faults, in_a_row, unreachable, openings, closed, left, probing, mine = (
            reply
        )
        return BreakerState(
            *(calls, faults, in_a_row, unreachable, openings),
            reopens_in_s=None if closed else left / 1000,
            probing_s=probing / 1000,
            mine=mine == 1,
        )


def keys_of(ephemeral: Ephemeral, provider: str, model: str) -> tuple[str, ...]:
    """A model's state, its probe and its counters, and the provider's index."""
    state = ephemeral.key("breaker", f"{provider}/{model}")
    index = ephemeral.key("breakers", provider)
    return state, f"{state}:probe", f"{state}:calls", index
