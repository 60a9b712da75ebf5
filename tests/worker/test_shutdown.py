"""SIGTERM: what runs is finished and acknowledged, what does not stays in the queue."""

from __future__ import annotations

import pytest

from tests.worker.conftest import StartWorker

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("pool", ["greenlets", "threads"])
async def test_running_hints_finish_and_the_others_go_back(
    start_worker: StartWorker, pool: str
) -> None:
    worker = await start_worker(pool)
    running = [worker.publish("sleep:1.5") for _ in range(worker.slots)]
    await worker.started(*running)
    late = [worker.publish("answer:done") for _ in range(3)]
    worker.terminate()
    assert await worker.exit_status() == 0
    assert len(worker.journal("ended", *running)) == len(running)
    assert not worker.journal("started", *late)
    assert worker.ready() == len(late)
    assert worker.notes()[-1]["what"] == "closed"


async def test_the_broker_connection_lives_through_a_long_end(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker("greenlets", heartbeat=1)
    running = [worker.publish("sleep:4.5") for _ in range(worker.slots)]
    await worker.started(*running)
    worker.terminate()
    assert await worker.exit_status() == 0
    assert len(worker.journal("ended", *running)) == len(running)
    assert worker.ready() == 0  # a broker that hears nothing for two beats hangs up


@pytest.mark.parametrize("pool", ["greenlets", "threads"])
async def test_running_hints_finish_although_the_broker_is_away(
    start_worker: StartWorker, pool: str
) -> None:
    worker = await start_worker(pool)
    running = [worker.publish("sleep:1.5") for _ in range(worker.slots)]
    await worker.started(*running)
    worker.terminate()
    await worker.proxy.refuse()
    assert await worker.exit_status() == 0
    assert len(worker.journal("ended", *running)) == len(running)
    assert not worker.journal("cancelled")


async def test_sigterm_while_reconnecting_still_finishes_what_runs(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker("greenlets")
    running = [worker.publish("sleep:2") for _ in range(worker.slots)]
    await worker.started(*running)
    await worker.proxy.refuse()
    worker.terminate()
    assert await worker.exit_status() == 0
    assert len(worker.journal("ended", *running)) == len(running)


async def test_the_worker_comes_back_when_the_broker_does(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker("greenlets")
    (job,) = [worker.publish("sleep:0.5")]
    await worker.started(job)
    await worker.proxy.refuse()
    await worker.ended(job)
    await worker.proxy.listen()
    await worker.all_slots_are_free()
