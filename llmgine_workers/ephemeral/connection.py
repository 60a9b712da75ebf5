"""One Redis or Valkey that may be dead: every call answers within 100 ms or says so."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from llmgine_workers.errors import DependencyDown

ANSWER_S = 0.1
"""A call that takes longer is given up: redis-py would wait 10 x 5 s (rule H1)."""
PROBE_EVERY_S = 1.0
"""How often a Redis that failed is looked at again."""
PROBE_ANSWER_S = 0.5
"""Nobody waits for the probe, so it may take longer: it opens the connection anew."""
LATE_S = 0.02
"""A timer that fires later than this says that our own loop was held up, not Redis."""
CALLS_AT_ONCE = 32
"""Connections of one process for short calls; more callers wait their turn."""
READERS_AT_ONCE = 5000
"""Connections of one process for blocking reads, half of Redis's `maxclients`."""

Argument = str | bytes | int | float


class EphemeralDown(DependencyDown):
    """Redis did not do it: dead, slow, read-only, loading, full, or marked as such."""


class Script:
    """One Lua script, known to the server by its SHA-1."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Line:
    """A connection of its own that the server may speak on at any time."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._closed = False
        self._sending: set[asyncio.Task[None]] = set()

    async def send(self, *command: Argument) -> None:
        """Say something; the answer is received. Raises EphemeralDown."""
        if self._closed:  # or redis-py would silently connect anew
            raise EphemeralDown("the connection was closed")
        try:
            await self._connection.send_command(*command, check_health=False)
        except (RedisError, OSError) as error:
            raise EphemeralDown(str(error)) from None

    def post(self, *command: Argument) -> None:
        """Say something without waiting; a failure shows in `receive`."""
        task = asyncio.create_task(self._sent(*command))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def receive(self) -> Any:
        """What the server says next, however long that takes. Raises EphemeralDown."""
        try:
            return await self._connection.read_response(disable_decoding=True)
        except (RedisError, OSError) as error:
            raise EphemeralDown(str(error) or "the connection was closed") from None

    async def close(self) -> None:
        """Hang up."""
        self._closed = True
        with suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)

    async def _sent(self, *command: Argument) -> None:
        with suppress(EphemeralDown):
            await self.send(*command)


class Ephemeral:
    """The one way to Redis. After a failure every call raises `EphemeralDown` at once,
    without touching the network, until a probe (about every second) could write again.

    `prefix` starts every key. Opens nothing before the first call.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        *,
        answer_s: float = ANSWER_S,
        probe_every_s: float = PROBE_EVERY_S,
    ) -> None:
        self._prefix = prefix
        self._answer_s = answer_s
        self._probe_every_s = probe_every_s
        self._short = _client(url, CALLS_AT_ONCE + 1)  # one for the probe
        self._blocking = _client(url, READERS_AT_ONCE)
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        self._down: str | None = None
        self._probe: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """False from a failure until the next successful probe."""
        return self._down is None

    @property
    def reason(self) -> str | None:
        """Why it is down, in the server's or the system's words."""
        return self._down

    def key(self, *parts: str) -> str:
        """`<prefix>:part:part`."""
        return ":".join((self._prefix, *parts))

    async def command(self, *command: Argument) -> Any:
        """One short command; the raw reply (bytes, int, list, None)."""
        return await self._answer(command)

    async def run(self, script: Script, keys: Sequence[str], *args: Argument) -> Any:
        """One Lua script; the raw reply. A server that forgot it is told it again."""
        rest = (len(keys), *keys, *args)
        try:
            return await self._answer(("EVALSHA", script.sha, *rest))
        except NoScriptError:
            return await self._answer(("EVAL", script.source, *rest))

    async def blocking(self, block_s: float, *command: Argument) -> Any:
        """A command that the server may hold back for `block_s`; the raw reply.

        One reader's lost connection says little, so its failure marks nothing down.
        """
        self._refuse_if_down()
        try:
            # The slack is for the server's own tick and for our loop.
            async with asyncio.timeout(block_s + 1.0):
                return await _execute(self._blocking, command)
        except (RedisError, OSError, TimeoutError) as error:
            raise EphemeralDown(str(error) or "a blocking read hangs") from None

    async def open_line(self) -> Line:
        """A connection to listen on; whoever asked closes it."""
        self._refuse_if_down()
        pool: Any = self._blocking.connection_pool
        connection: Any = pool.make_connection()
        try:
            async with asyncio.timeout(PROBE_ANSWER_S):
                await connection.connect()
        except (RedisError, OSError, TimeoutError) as error:
            raise EphemeralDown(str(error) or "no connection") from None
        return Line(connection)

    async def close(self) -> None:
        """Stop probing and close the connections."""
        if self._probe is not None:
            self._probe.cancel()
            with suppress(asyncio.CancelledError):
                await self._probe
        for client in (self._short, self._blocking):
            with suppress(RedisError, OSError):
                await client.aclose()
                await client.connection_pool.disconnect()

    async def _answer(self, command: Sequence[Argument]) -> Any:
        self._refuse_if_down()
        async with self._turns:
            self._refuse_if_down()  # it may have failed while we waited
            try:
                async with _within(self._answer_s):
                    return await _execute(self._short, command)
            except NoScriptError:
                raise
            except (RedisError, OSError, TimeoutError) as error:
                raise self._failed(error) from None

    def _refuse_if_down(self) -> None:
        if self._down is not None:
            raise EphemeralDown(self._down)

    def _failed(self, error: Exception) -> EphemeralDown:
        reason = str(error) or f"no answer in {self._answer_s:g} s"
        if _is_about_one_key(error):
            return EphemeralDown(reason)
        self._down = reason
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._probe_until_alive())
        return EphemeralDown(reason)

    async def _probe_until_alive(self) -> None:
        while self._down is not None:
            await asyncio.sleep(self._probe_every_s * random.uniform(0.8, 1.2))  # noqa: S311
            try:
                async with asyncio.timeout(PROBE_ANSWER_S):
                    # A write: a read-only or full server answers PING like a sane one.
                    await _execute(self._short, ("SET", self.key("probe"), 1, "PX", 1000))
            except (RedisError, OSError, TimeoutError) as error:
                self._down = str(error) or self._down
            else:
                self._down = None


def _is_about_one_key(error: Exception) -> bool:
    """A wrong type or a script's own error: the server itself is well."""
    if type(error) is not ResponseError:
        return False
    return str(error).startswith(("WRONGTYPE", "ERR")) or "user_script" in str(error)


async def _execute(client: Redis, command: Sequence[Argument]) -> Any:
    return await client.execute_command(*command)  # type: ignore[no-untyped-call]


def _client(url: str, connections: int) -> Redis:
    pool = ConnectionPool.from_url(
        url,
        max_connections=connections,
        protocol=2,
        socket_timeout=None,  # the limits are ours, around each whole call
        retry=Retry(NoBackoff(), 0),
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    client = Redis(connection_pool=pool)
    client.response_callbacks.clear()
    return client


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """Like asyncio.timeout, but a stall of our own loop is not held against Redis.

    A loop that was busy past the deadline has not read the answer that is there: it
    gets the same time once more.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds
    async with asyncio.timeout(None) as limit:

        def expire() -> None:
            late = loop.time() - due > LATE_S
            limit.reschedule(loop.time() + (seconds if late else 0.0))

        timer = loop.call_at(due, expire)
        try:
            yield
        finally:
            timer.cancel()
