"""Whether the schema is what this version needs; apart, for Alembic loads slowly."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import asyncpg

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.ledger.connection import Ledger, LedgerDown

_VERSIONS = Path(__file__).parent / "migrations" / "versions"


async def verify(ledger: Ledger) -> None:
    """ConfigurationError with the mending command unless the schema is the newest."""
    newest = max(path.name.partition("_")[0] for path in _VERSIONS.glob("*.sql"))
    found = await _version(ledger)
    if found != newest:
        raise ConfigurationError(
            f"the ledger's schema {ledger.schema!r} is at {found or 'nothing'}, "
            f"this version needs {newest}; run: llmgine migrate"
        )


async def verify_if_there(ledger: Ledger) -> None:
    """The same for who may start before the ledger does; an absent one is fine."""
    with suppress(LedgerDown):
        await verify(ledger)


async def _version(ledger: Ledger) -> str | None:
    try:
        async with ledger.connection() as connection:
            found = await connection.fetchval("select version_num from schema_version")
    except asyncpg.UndefinedTableError:
        return None
    return str(found)
