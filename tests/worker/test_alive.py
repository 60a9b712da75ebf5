"""The sign of life: given while consumer and loop turn, and not a moment longer."""

from __future__ import annotations

import time

import pytest

from tests.worker.conftest import StartWorker
from tests.worker.toy_worker import ToyWorker, until

pytestmark = pytest.mark.integration

SILENT_S = 1.0
"""Ten touches of the toy."""


def touched_at(worker: ToyWorker) -> float:
    """When it last gave a sign of life (seconds since the epoch)."""
    touched = worker.journal("touched")
    return float(touched[-1]["at"]) if touched else 0.0


async def goes_on(worker: ToyWorker) -> None:
    """Wait for a few signs of life that are newer than now."""
    now = time.time()
    await until(lambda: touched_at(worker) > now + 0.3)


async def falls_silent(worker: ToyWorker) -> None:
    """Wait until it has given none for long."""
    await until(lambda: time.time() - touched_at(worker) > SILENT_S)


@pytest.mark.parametrize("pool", ["greenlets", "threads"])
async def test_a_worker_is_alive_with_and_without_its_broker(
    start_worker: StartWorker, pool: str
) -> None:
    worker = await start_worker(pool)
    await goes_on(worker)
    await worker.proxy.refuse()
    await goes_on(worker)
    await worker.proxy.listen()
    await worker.run("answer:done")
    await goes_on(worker)


async def test_a_consumer_that_is_stuck_is_not_alive(start_worker: StartWorker) -> None:
    worker = await start_worker("greenlets")
    await goes_on(worker)
    worker.publish("stick:")
    await until(lambda: worker.journal("stuck"))
    await falls_silent(worker)


async def test_a_loop_that_is_held_is_not_alive_until_it_turns(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker("greenlets")
    job = worker.publish("block:2")
    await worker.started(job)
    await falls_silent(worker)
    await worker.ended(job)
    await goes_on(worker)
