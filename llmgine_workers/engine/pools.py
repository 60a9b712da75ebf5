"""What this process knows of the pools: a cached row each, never a count."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from llmgine_workers.ledger import pools
from llmgine_workers.ledger.connection import Ledger, LedgerDown
from llmgine_workers.ledger.fairness import LAST_CLASS
from llmgine_workers.ledger.pools import PoolState

REFRESH_S = 0.25

LEAST_SHARE = 10
"""Steps of one tenant that are released at once between two looks, at least; beyond it a
tenant gets half of a pool's credit, and the scheduler gives out the rest in turns."""


class Pools:
    """Whether a new step may be released at once, or is held for the scheduler."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._states: dict[str, PoolState] = {}
        self._credit: dict[str, int] = {}
        self._share: dict[tuple[str, str], int] = {}

    def release_now(self, tenant: str, asked: Iterable[tuple[str, int]]) -> list[bool]:
        """One answer per pool and class, in order; a yes uses up credit until the next
        look. Batches always wait for the scheduler."""
        return [self._take(pool, tenant, priority) for pool, priority in asked]

    def live(self, pool: str) -> int:
        """Live workers of a pool, as of the last look."""
        state = self._states.get(pool)
        return state.live if state else 0

    async def refresh(self) -> None:
        """Look once."""
        self._states = await pools.states(self._ledger)
        self._credit = {
            name: 0 if state.backlogged or state.paused_at else state.credit
            for name, state in self._states.items()
        }
        self._share.clear()

    def paused(self, pool: str) -> str | None:
        """That a person paused a pool, in words, as of the last look; else None."""
        state = self._states.get(pool)
        if state is None or state.paused_at is None:
            return None
        why = f": {state.paused_reason}" if state.paused_reason else ""
        return f"the pool {pool} was paused by an operator{why}"

    async def run(self) -> None:
        """Look four times a second until cancelled; an absent ledger changes nothing."""
        while True:
            try:
                await self.refresh()
            except LedgerDown:
                self._credit.clear()
            await asyncio.sleep(REFRESH_S)

    def _take(self, pool: str, tenant: str, priority: int) -> bool:
        credit = self._credit.get(pool, 0)
        if credit <= 0 or priority == LAST_CLASS:
            return False
        if (pool, tenant) not in self._share:
            self._share[pool, tenant] = max(LEAST_SHARE, credit // 2)
        if not self._share[pool, tenant]:
            return False
        self._share[pool, tenant] -= 1
        self._credit[pool] = credit - 1
        return True
