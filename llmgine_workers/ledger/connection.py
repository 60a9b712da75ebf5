"""A pool of asyncpg connections, and one exception for a ledger that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import orjson

from llmgine_workers.errors import DependencyDown

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:  # generic only in its stubs
    Connection, Pool = asyncpg.Connection, asyncpg.Pool

Result = TypeVar("Result")

STATEMENT_TIMEOUT_S = 15.0
"""No statement of ours is meant to take longer; a stalled server is then "away"."""

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
"""Between two tries while the ledger is away; doubled from the first to the longest."""

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalClientError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
)


class LedgerDown(DependencyDown):
    """PostgreSQL did not answer; whether the last commit took is unknown."""

    code = "ledger_unavailable"


class Ledger:
    """The connections of one process. `schema` holds everything of ours."""

    def __init__(self, url: str, schema: str, *, connections: int = 10) -> None:
        self.url = url
        self.schema = schema
        self._connections = connections
        self._pool: Pool | None = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection, or LedgerDown: also for what fails while it is used."""
        try:
            pool = await self._opened()
            async with pool.acquire(timeout=STATEMENT_TIMEOUT_S) as connection:
                yield connection
        except _AWAY as error:
            if isinstance(error, asyncpg.InterfaceError) and _is_ours(error):
                raise
            raise LedgerDown(f"the ledger does not answer: {_name(error)}") from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside one transaction."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def close(self) -> None:
        """Close all connections, waiting at most a few seconds for busy ones."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), 5)
        except (TimeoutError, *_AWAY):
            pool.terminate()

    async def _opened(self) -> Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self.url,
                    min_size=0,
                    max_size=self._connections,
                    timeout=5,
                    command_timeout=STATEMENT_TIMEOUT_S,
                    server_settings=session_settings(self.schema),
                    init=speak_json,
                    reset=_as_it_is,
                )
            return self._pool


def session_settings(schema: str) -> dict[str, str]:
    """What every connection of ours sets: only our schema, no idle transactions.

    Statements are planned once: over day partitions, planning anew for the values at hand
    cost half of the server's time, and finds the same plan.
    """
    return {
        "search_path": schema,
        "application_name": "llmgine",
        "idle_in_transaction_session_timeout": "5000",
        "jit": "off",
        "plan_cache_mode": "force_generic_plan",
    }


async def speak_json(connection: Connection) -> None:
    """jsonb columns as Python values."""
    await connection.set_type_codec(
        "jsonb",
        encoder=lambda value: orjson.dumps(value).decode(),
        decoder=orjson.loads,
        schema="pg_catalog",
    )


async def _as_it_is(_: Connection) -> None:
    """What is left to undo between two users of a connection.

    Nothing: settings and locks of ours end with their transaction (which asyncpg rolls
    back itself), and asyncpg's own clean-up is a round trip more for every statement.
    """


async def while_away(action: Callable[[], Awaitable[Result]]) -> Result:
    """Repeat an idempotent action until the ledger answers."""
    pause = FIRST_PAUSE_S
    while True:
        try:
            return await action()
        except LedgerDown:
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)


def _is_ours(error: asyncpg.InterfaceError) -> bool:
    """A value or a number of arguments that a statement does not take: no outage."""
    return isinstance(error, ValueError) or "server expects" in str(error)


def _name(error: BaseException) -> str:
    return type(error).__name__
