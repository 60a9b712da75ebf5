"""Worker processes for the tests of this room."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.worker.toy_worker import ToyWorker

StartWorker = Callable[..., Awaitable[ToyWorker]]


@pytest.fixture(scope="module", params=["greenlets", "threads"])
async def worker(
    request: pytest.FixtureRequest,
    amqp_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ToyWorker]:
    """A worker of four slots; at its end nothing may be left unacknowledged."""
    directory = tmp_path_factory.mktemp("worker")
    toy = ToyWorker(amqp_url, directory, request.param, slots=4, heartbeat=20)
    try:
        await toy.start()
        yield toy
        toy.terminate()
        assert await toy.exit_status() == 0
        assert toy.ready() == 0
    finally:
        await toy.destroy()


@pytest.fixture
async def start_worker(amqp_url: str, tmp_path: Path) -> AsyncIterator[StartWorker]:
    """Start a worker for one test: `await start_worker(pool, slots=, heartbeat=)`."""
    started: list[ToyWorker] = []

    async def start(pool: str, *, slots: int = 4, heartbeat: int = 20) -> ToyWorker:
        toy = ToyWorker(amqp_url, tmp_path, pool, slots=slots, heartbeat=heartbeat)
        started.append(toy)
        await toy.start()
        return toy

    yield start
    for toy in started:
        await toy.destroy()
