"""One migrated ledger for the whole room; each test has jobs and a pool of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from tests.ledger.rows import Place


@pytest.fixture(scope="session")
async def migrated(postgres_url: str) -> AsyncIterator[Ledger]:
    """A ledger that tests share and never break."""
    ledger = Ledger(postgres_url, "ledger_test", connections=20)
    await migrate(ledger)
    yield ledger
    await ledger.close()


@pytest.fixture
def place(migrated: Ledger) -> Place:
    """That ledger, with a pool of this test only."""
    return Place(migrated)
