"""Brings the schema to its newest version, and says where a schema stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.ledger import partitions
from llmgine_workers.ledger.connection import Ledger, LedgerDown, session_settings

_FOLDER = Path(__file__).parent / "migrations"


async def migrate(ledger: Ledger) -> None:
    """Create or upgrade everything; running it twice changes nothing."""
    await _with_engine(ledger, _upgrade)
    await partitions.ensure(ledger)


async def verify(ledger: Ledger) -> None:
    """ConfigurationError with the mending command unless the schema is the newest."""
    found = await _with_engine(ledger, _current)
    newest = ScriptDirectory(str(_FOLDER)).get_current_head()
    if found != newest:
        raise ConfigurationError(
            f"the ledger's schema {ledger.schema!r} is at {found or 'nothing'}, "
            f"this version needs {newest}; run: llmgine migrate"
        )


def run_sql(migration: str) -> None:
    """Run the `.sql` file beside a migration, as one script."""
    script = Path(migration).with_suffix(".sql").read_text("utf-8")
    adapted: Any = op.get_bind().connection
    adapted.run_async(lambda connection: connection.execute(script))


async def _with_engine(ledger: Ledger, action: Any) -> Any:
    engine = create_async_engine(
        ledger.url.replace("postgres://", "postgresql://").replace(
            "postgresql://", "postgresql+asyncpg://", 1
        ),
        connect_args={"server_settings": session_settings(ledger.schema)},
    )
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(action, ledger.schema)
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


def _current(connection: Connection, schema: str) -> str | None:
    options = {"version_table": "schema_version", "version_table_schema": schema}
    return MigrationContext.configure(connection, opts=options).get_current_revision()
