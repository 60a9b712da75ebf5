"""A line on a migrated ledger of this room."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.prices import Prices
from llmgine_workers.settings import PriceSettings
from tests.engine.line import SETTINGS, Line, open_line


@pytest.fixture(scope="session")
async def migrated(postgres_url: str) -> AsyncIterator[Ledger]:
    """A ledger that tests share and never break."""
    ledger = Ledger(postgres_url, "engine_test", connections=20)
    await migrate(ledger)
    yield ledger
    await ledger.close()


@pytest.fixture(scope="session")
def prices() -> Prices:
    """The price book, with the test model's own row."""
    rows = {k: PriceSettings(**v) for k, v in SETTINGS["prices"].items()}
    return Prices(rows)


@pytest.fixture
async def line(migrated: Ledger, redis_url: str, prices: Prices) -> AsyncIterator[Line]:
    """A line of this test's own."""
    async with open_line(migrated, redis_url, prices) as line:
        yield line
