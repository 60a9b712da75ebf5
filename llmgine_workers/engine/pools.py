"""What this process knows of the pools: a cached row each, never a count."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from llmgine_workers.ledger import release
from llmgine_workers.ledger.connection import Ledger, LedgerDown

REFRESH_S = 0.25


class Pools:
    """Whether a new step may be released at once, or is held for the scheduler."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._states: dict[str, release.PoolState] = {}
        self._credit: dict[str, int] = {}

    def release_now(self, pools: Iterable[str]) -> list[bool]:
        """One answer per pool, in order; a yes uses up credit until the next look."""
        return [self._take(pool) for pool in pools]

    def live(self, pool: str) -> int:
        """Live workers of a pool, as of the last look."""
        state = self._states.get(pool)
        return state.live if state else 0

    async def refresh(self) -> None:
        """Look once."""
        self._states = await release.states(self._ledger)
        self._credit = {
            name: 0 if state.backlogged else state.credit
            for name, state in self._states.items()
        }

    async def run(self) -> None:
        """Look four times a second until cancelled; an absent ledger changes nothing."""
        while True:
            try:
                await self.refresh()
            except LedgerDown:
                self._credit.clear()
            await asyncio.sleep(REFRESH_S)

    def _take(self, pool: str) -> bool:
        credit = self._credit.get(pool, 0)
        self._credit[pool] = credit - 1
        return credit > 0
