"""The state of each provider's breaker, shared by all workers, each change atomic."""

from __future__ import annotations

from dataclasses import dataclass

from llmgine_workers.ephemeral.connection import Argument, Ephemeral, Script

KEEP_S = 3600
"""A breaker nobody touched for so long is forgotten, which closes it."""


@dataclass(frozen=True)
class BreakerState:
    """A breaker as it was a moment ago.

    `failures` in a row while closed; `openings` since it was last closed;
    `reopens_in_s` is None while closed, else the seconds until a probe may go
    (0 or less: now); `probing_s` is how long the present probe's lease still lasts.
    `mine`: the verb that answered this had its effect (opened, closed, was granted).
    """

    failures: int = 0
    openings: int = 0
    reopens_in_s: float | None = None
    probing_s: float = 0.0
    mine: bool = False

    @property
    def is_open(self) -> bool:
        """Open, or half open: only a probe may pass."""
        return self.reopens_in_s is not None


# KEYS: the state's hash (failures, openings, until), the probe's lease.
_LIBRARY = """
local stamp = redis.call('TIME')
local now = stamp[1] * 1000 + math.floor(stamp[2] / 1000)
local opened = redis.call('HEXISTS', KEYS[1], 'until') == 1
local function state(granted)
  local all = redis.call('HMGET', KEYS[1], 'failures', 'openings', 'until')
  local closed = not all[3]
  return {tonumber(all[1] or 0), tonumber(all[2] or 0), closed and 1 or 0,
    closed and 0 or all[3] - now, math.max(0, redis.call('PTTL', KEYS[2])),
    granted or 0}
end
local function keep() redis.call('EXPIRE', KEYS[1], ARGV[1]) end
"""

_LOOK = Script(_LIBRARY + "return state()")

_FAIL = Script(
    _LIBRARY
    + """
if not opened then
  redis.call('HINCRBY', KEYS[1], 'failures', 1)
  keep()
end
return state()
"""
)

_SUCCEED = Script(
    _LIBRARY
    + """
if not opened then redis.call('DEL', KEYS[1]) end
return state()
"""
)

# ARGV: keep, token of the failed probe or '', ms until the next probe. Of many
# failures that want to open it only the first does, so the back-off doubles once.
_OPEN = Script(
    _LIBRARY
    + """
local mine = ARGV[2] ~= '' and redis.call('GET', KEYS[2]) == ARGV[2]
if opened and not mine then return state() end
redis.call('HDEL', KEYS[1], 'failures')
redis.call('HINCRBY', KEYS[1], 'openings', 1)
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + ARGV[3]))
redis.call('DEL', KEYS[2])
keep()
return state(1)
"""
)

_CLOSE = Script(
    _LIBRARY
    + """
local holder = redis.call('GET', KEYS[2])
if not opened or (holder and holder ~= ARGV[2]) then return state() end
redis.call('DEL', KEYS[1], KEYS[2])
return state(1)
"""
)

_LEASE = Script(
    _LIBRARY
    + """
if not opened or now < tonumber(redis.call('HGET', KEYS[1], 'until')) then
  return state()
end
local got = redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3])
if got then keep() end
return state(got and 1 or 0)
"""
)

_RELEASE = Script(
    _LIBRARY
    + """
if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('DEL', KEYS[2]) end
return state()
"""
)


class BreakerStore:
    """The verbs of a breaker's life; each answers the state it left behind.

    Every method raises EphemeralDown.
    """

    def __init__(self, ephemeral: Ephemeral) -> None:
        self._ephemeral = ephemeral

    async def look(self, provider: str) -> BreakerState:
        """The state, unchanged."""
        return await self._run(_LOOK, provider)

    async def fail(self, provider: str) -> BreakerState:
        """Count one failure, unless it is open."""
        return await self._run(_FAIL, provider)

    async def succeed(self, provider: str) -> BreakerState:
        """Forget the failures in a row, unless it is open."""
        return await self._run(_SUCCEED, provider)

    async def open(
        self, provider: str, probe: str | None, back_off_s: float
    ) -> BreakerState:
        """Open it, or open it again because this probe failed."""
        return await self._run(_OPEN, provider, probe or "", int(back_off_s * 1000))

    async def close(self, provider: str, probe: str) -> BreakerState:
        """Close it because this probe went well."""
        return await self._run(_CLOSE, provider, probe)

    async def lease(self, provider: str, probe: str, lease_s: float) -> BreakerState:
        """Take the one probe of the cluster, if it is due and free."""
        return await self._run(_LEASE, provider, probe, int(lease_s * 1000))

    async def release(self, provider: str, probe: str) -> BreakerState:
        """Give the probe back undecided."""
        return await self._run(_RELEASE, provider, probe)

    async def _run(self, script: Script, provider: str, *rest: Argument) -> BreakerState:
        key = self._ephemeral.key("breaker", provider)
        failures, openings, closed, left, probing, mine = await self._ephemeral.run(
            script, (key, f"{key}:probe"), KEEP_S, *rest
        )
        reopens_in_s = None if closed else left / 1000
        return BreakerState(failures, openings, reopens_in_s, probing / 1000, mine == 1)
