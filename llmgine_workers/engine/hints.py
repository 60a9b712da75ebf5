"""Tells the broker of released steps, in the background: a submit never waits for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from uuid import UUID

from llmgine_workers.broker import Broker, messages
from llmgine_workers.ledger import steps as ledger_steps
from llmgine_workers.ledger.connection import Ledger, while_away
from llmgine_workers.ledger.records import NewStep, Released, StepKey

WAITING_AT_MOST = 20_000
"""Hints in memory; more than that are held in the ledger at once."""

BATCH = 500
BATCHES_AT_ONCE = 8


def released_of(
    job: UUID, chain: str, run: int, steps: Sequence[NewStep], now: Sequence[bool]
) -> list[Released]:
    """Those new steps of a job that were released as they were written."""
    return [
        Released(StepKey(job, step.path), step.pool, chain, run)
        for step, is_released in zip(steps, now, strict=True)
        if is_released
    ]


class Hints:
    """A bounded queue in front of the broker; what it does not confirm is held again."""

    def __init__(self, broker: Broker, ledger: Ledger, prefix: str) -> None:
        self._broker = broker
        self._ledger = ledger
        self._prefix = prefix
        self._waiting: asyncio.Queue[Released] = asyncio.Queue(WAITING_AT_MOST)
        self._batches = asyncio.Semaphore(BATCHES_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, released: Sequence[Released]) -> None:
        """Publish soon; returns at once."""
        held = []
        for one in released:
            try:
                self._waiting.put_nowait(one)
            except asyncio.QueueFull:
                held.append(one)
        if held:
            self._spawn(self._hold(held))

    async def run(self) -> None:
        """Publish what is offered until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._batches.acquire()
            self._spawn(self._publish(batch))

    async def drain(self) -> None:
        """Wait until all that was offered is confirmed or held."""
        await self._waiting.join()

    async def _publish(self, batch: Sequence[Released]) -> None:
        try:
            pools = defaultdict(list)
            for one in batch:
                pools[one.pool].append(one)
            for pool, steps_of_pool in pools.items():
                await self._publish_to(pool, steps_of_pool)
        finally:
            self._batches.release()
            for _ in batch:
                self._waiting.task_done()

    async def _publish_to(self, pool: str, released: Sequence[Released]) -> None:
        by_message = {
            messages.hint(one.key.job, one.key.path, one.run, one.chain): one
            for one in released
        }
        lost = await self._broker.publish(f"{self._prefix}.{pool}", list(by_message))
        if lost:
            await self._hold([by_message[message] for message in lost])

    async def _hold(self, released: Sequence[Released]) -> None:
        await while_away(lambda: ledger_steps.unrelease(self._ledger, released))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
