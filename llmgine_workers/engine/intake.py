"""What the submits of one process share: their statement, their keys, their room."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from weakref import WeakValueDictionary

from llmgine_workers.engine.chosen import KnownChains
from llmgine_workers.errors import Refusal
from llmgine_workers.ledger import jobs, submits
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.gather import Gatherer
from llmgine_workers.ledger.submits import Submit

LOOK_AGAIN_S = 1.0
"""How long a tenant's load is believed: as often as the scheduler counts it."""

TENANTS = 10_000
"""Tenants whose load is kept."""

ALONE = 3
"""Submits that wait for another gateway's key; the other connections stay free."""


@dataclass
class _Load:
    """A tenant's unfinished steps as counted, and those that came here since."""

    seen_at: float
    queued: int


class Intake:
    """See the module. `known`: the chains that came with earlier requests."""

    def __init__(
        self,
        ledger: Ledger,
        most_queued: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.known = KnownChains()
        self._ledger = ledger
        self._most_queued = most_queued
        self._clock = clock
        self._loads: OrderedDict[str, _Load] = OrderedDict()
        self._counted = Gatherer(partial(jobs.queued_each, ledger))
        self._insert = Gatherer(
            partial(submits.insert_each, ledger),
            at_most=submits.AT_MOST_BYTES,
            weigh=Submit.weight,
        )
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock]
        self._turns = WeakValueDictionary()
        self._alone = asyncio.Semaphore(ALONE)

    async def take_room(self, tenant: str, steps: int) -> None:
        """Count on so many steps more; Refusal `tenant_queue_full` beyond the cap."""
        load = await self._load(tenant)
        if load.queued + steps > self._most_queued:
            raise Refusal(
                "tenant_queue_full",
                f"{load.queued} steps of {tenant} are waiting, "
                f"at most {self._most_queued} may",
            )
        load.queued += steps

    async def insert(self, submit: Submit) -> datetime:
        """When it was written; KeyTaken if its key has its job already.

        Goes into one transaction with whatever else is submitted at that moment.
        """
        if submit.key is None:
            return await self._insert(submit) or await self._by_itself(submit)
        turn = (submit.job.tenant, submit.key[0])
        # Equal requests one after the other: one waits for the ledger, not all.
        async with self._turns.setdefault(turn, asyncio.Lock()):
            return await self._insert(submit) or await self._by_itself(submit)

    async def _by_itself(self, submit: Submit) -> datetime:
        async with self._alone:
            return await submits.insert(self._ledger, submit)

    async def _load(self, tenant: str) -> _Load:
        known = self._loads.get(tenant)
        asked_at = self._clock()
        if known is not None and asked_at - known.seen_at < LOOK_AGAIN_S:
            return known
        queued = await self._counted(tenant)
        newer = self._loads.get(tenant)
        if newer is not None and newer is not known:  # others asked at the same time
            return newer
        found = self._loads[tenant] = _Load(asked_at, queued)
        self._loads.move_to_end(tenant)
        if len(self._loads) > TENANTS:
            self._loads.popitem(last=False)
        return found
