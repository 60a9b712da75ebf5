"""Rooms of their own in the shared Redis, and servers that answer nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from llmgine_workers.ephemeral.connection import Ephemeral

NewEphemeral = Callable[..., Ephemeral]
# The tests of behaviour must not fail because the machine is busy for 100 ms.
PATIENT_S = 5.0


@pytest.fixture
async def new_ephemeral() -> AsyncIterator[NewEphemeral]:
    """Makes connections that are closed after the test."""
    made: list[Ephemeral] = []

    def new(url: str, prefix: str | None = None, **options: float) -> Ephemeral:
        made.append(Ephemeral(url, prefix or f"t{uuid4().hex}", **options))
        return made[-1]

    yield new
    for ephemeral in made:
        await ephemeral.close()


@pytest.fixture
def ephemeral(redis_url: str, new_ephemeral: NewEphemeral) -> Ephemeral:
    """A patient connection under a prefix of its own."""
    return new_ephemeral(redis_url, answer_s=PATIENT_S)


@asynccontextmanager
async def server_that_says(reply: bytes) -> AsyncIterator[str]:
    """The URL of a server that answers every command with the same bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def eventually(holds: Callable[[], bool], within_s: float = 5.0) -> None:
    """Poll until it holds; fail after the bound."""

    async def ask() -> bool:
        return holds()

    await eventually_true(ask, within_s)


async def eventually_true(
    ask: Callable[[], Awaitable[bool]], within_s: float = 5.0
) -> None:
    """Ask until the answer is yes; fail after the bound."""
    async with asyncio.timeout(within_s):
        while not await ask():  # noqa: ASYNC110 - what is asked is in another process
            await asyncio.sleep(0.005)


async def seconds_of(work: Awaitable[object]) -> float:
    """How long it takes to end, in whatever way."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    await asyncio.gather(work, return_exceptions=True)
    return loop.time() - started
