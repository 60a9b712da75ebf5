"""The pools as people see them, at a price that no backlog changes.

Numbers are what the scheduler wrote down last; gates are asked for where they are kept.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llmgine_workers import clock
from llmgine_workers.ephemeral.breaker_store import BreakerStore
from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.ephemeral.pauses import Pauses
from llmgine_workers.ledger import overview
from llmgine_workers.ledger.overview import PoolSeen
from llmgine_workers.runtime import Runtime
from llmgine_workers.settings import TOOLS_POOL

_COUNTS = ("workers", "slots", "credit", "queued", "running", "waiting")


@dataclass(frozen=True)
class Gate:
    """Whether calls may start: `open provider_pause breaker unknown`, and until when.

    `breaker`: that of at least one model is open; without a time, a probe is deciding.
    """

    state: str
    until: datetime | None = None


async def listed(rt: Runtime) -> list[dict[str, Any]]:
    """Every pool of the settings, and every other that the scheduler has seen."""
    seen = await overview.pools_seen(rt.ledger)
    names = sorted({*rt.settings.pools(rt.environ), *seen})
    gates = await asyncio.gather(*(gate_of(rt, name) for name in names))
    return [
        _shown(name, seen.get(name), gate)
        for name, gate in zip(names, gates, strict=True)
    ]


async def gate_of(rt: Runtime, pool: str) -> Gate:
    """The gate of a provider's pool, as all workers share it; tools have none."""
    if pool == TOOLS_POOL:
        return Gate("open")
    try:
        paused_s = await Pauses(rt.ephemeral).left_s(pool)
        shut = await BreakerStore(rt.ephemeral).shut(pool)
    except EphemeralDown:
        return Gate("unknown")
    if paused_s > 0:
        return Gate("provider_pause", _in(paused_s))
    if not shut:
        return Gate("open")
    opens_in_s = max(shut.values())
    return Gate("breaker", _in(opens_in_s) if opens_in_s > 0 else None)


def _shown(name: str, seen: PoolSeen | None, gate: Gate) -> dict[str, Any]:
    return {
        "pool": name,
        **{count: getattr(seen, count, 0) for count in _COUNTS},
        "backlogged": seen is not None and seen.backlogged,
        "gate": {"state": gate.state, "until": clock.rfc3339(gate.until)},
        "paused": _paused(seen),
        "seen_at": clock.rfc3339(seen.ticked_at) if seen else None,
        "counted_at": clock.rfc3339(seen.counted_at) if seen else None,
    }


def _paused(seen: PoolSeen | None) -> dict[str, Any] | None:
    if seen is None or seen.paused_at is None:
        return None
    return {"since": clock.rfc3339(seen.paused_at), "reason": seen.paused_reason}


def _in(seconds: float) -> datetime:
    return clock.now() + timedelta(seconds=seconds)
