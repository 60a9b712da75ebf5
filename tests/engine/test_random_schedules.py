"""The protocol as a whole: whatever happens in whatever order, nothing is stuck."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from llmgine_workers.ledger import connection, pools
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from tests.engine.line import Line
from tests.engine.schedule import World

pytestmark = pytest.mark.integration

SCHEDULES = int(os.environ.get("LLMGINE_SCHEDULES", "16"))
FIRST_SEED = int(os.environ.get("LLMGINE_FIRST_SEED", "1"))
"""More of them by hand: LLMGINE_SCHEDULES=1000 pytest -k random_schedule."""


@pytest.fixture(scope="module")
async def migrated(postgres_url: str) -> AsyncIterator[Ledger]:
    """Apart: a pool is one, and here it has to be empty at first."""
    ledger = Ledger(postgres_url, "schedules_test")
    await migrate(ledger)
    yield ledger
    await ledger.close()


@pytest.fixture(autouse=True)
def quick_and_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries without pauses, and a window that ten jobs can fill."""
    monkeypatch.setattr(connection, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(pools, "LEAST_WINDOW", 4)


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SCHEDULES))
async def test_a_random_schedule_breaks_no_promise(line: Line, seed: int) -> None:
    world = World(line, seed)
    try:
        broken = await world.run()
        assert world.paid, "nothing happened"
        assert not broken
    finally:
        await world.close()


@pytest.mark.parametrize("row", ["lost hints", "lost steps", "wake"])
async def test_without_one_of_its_rows_jobs_get_stuck(line: Line, row: str) -> None:
    """Or the schedules would prove nothing about that row."""
    stuck = 0
    for seed in range(3):
        world = World(line, seed, without=[row])
        try:
            stuck += len((await world.run(200)).stuck)
        finally:
            await world.close()
    assert stuck
