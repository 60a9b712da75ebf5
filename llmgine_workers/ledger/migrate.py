"""Brings the schema to its newest version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command, op
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from llmgine_workers.ledger import partitions
from llmgine_workers.ledger.connection import Ledger, LedgerDown, session_settings

_FOLDER = Path(__file__).parent / "migrations"


async def migrate(ledger: Ledger) -> None:
    """Create or upgrade everything; running it twice changes nothing."""
    await _upgraded(ledger)
    await partitions.ensure(ledger)


def run_sql(migration: str) -> None:
    """Run the `.sql` file beside a migration, as one script."""
    script = Path(migration).with_suffix(".sql").read_text("utf-8")
    adapted: Any = op.get_bind().connection
    adapted.run_async(lambda connection: connection.execute(script))


async def _upgraded(ledger: Ledger) -> None:
    engine = create_async_engine(
        ledger.url.replace("postgres://", "postgresql://").replace(
            "postgresql://", "postgresql+asyncpg://", 1
        ),
        connect_args={"server_settings": session_settings(ledger.schema)},
    )
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade, ledger.schema)
    except OSError as error:
        raise LedgerDown(f"the ledger does not answer: {error}") from error
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, schema: str) -> None:
    connection.execute(text("select pg_advisory_xact_lock(hashtext('llmgine.migrate'))"))
    connection.execute(text(f'create schema if not exists "{schema}"'))
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.attributes.update(connection=connection, schema=schema)
    command.upgrade(config, "head")
