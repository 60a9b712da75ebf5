"""The schema: made by one command, verified by everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.ledger.schema import verify

pytestmark = pytest.mark.integration


@pytest.fixture
async def empty(new_database: Callable[[], str]) -> AsyncIterator[Ledger]:
    ledger = Ledger(new_database(), "some_prefix")
    yield ledger
    await ledger.close()


async def relations(ledger: Ledger) -> list[tuple[str, str]]:
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select oid::text as id, relname from pg_class "
            "where relnamespace = current_schema()::regnamespace order by relname"
        )
    return [(row["id"], row["relname"]) for row in rows]


async def test_an_empty_database_is_refused_with_the_mending_command(
    empty: Ledger,
) -> None:
    with pytest.raises(ConfigurationError, match=r"is at nothing.*run: llmgine migrate"):
        await verify(empty)


async def test_migrating_twice_and_twice_at_once_changes_nothing(empty: Ledger) -> None:
    await asyncio.gather(migrate(empty), migrate(empty))
    await verify(empty)
    before = await relations(empty)
    assert {"jobs", "steps", "payloads", "attempts", "letters"} <= {n for _, n in before}
    await migrate(empty)
    assert await relations(empty) == before


async def test_an_older_schema_is_refused_with_both_versions(empty: Ledger) -> None:
    await migrate(empty)
    async with empty.connection() as connection:
        await connection.execute("update schema_version set version_num = '0000'")
    with pytest.raises(
        ConfigurationError, match=r"is at 0000, .* needs 00\d\d; run: llmgine migrate"
    ):
        await verify(empty)


async def test_two_prefixes_share_a_database(empty: Ledger) -> None:
    other = Ledger(empty.url, "another_prefix")
    try:
        await migrate(empty)
        with pytest.raises(ConfigurationError):
            await verify(other)
        await migrate(other)
        await verify(other)
    finally:
        await other.close()
