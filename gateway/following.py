"""Following a job: by its events while Redis is there, by the ledger while it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from uuid import UUID

from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.ephemeral.streams import Page, Streams
from llmgine_workers.ledger import views
from llmgine_workers.ledger.connection import Ledger, LedgerDown

POLL_S = 1.0
"""How often the ledger is asked while Redis is away."""
SILENCE_S = 5.0
"""After so long without an event the ledger is asked: the last one may be lost."""
NEWEST = 2**53 - 1
"""Above every number an event can have (and still exact in JavaScript)."""
LAST_EVENT = "job.finished"


async def pages(
    streams: Streams, job: UUID, after: int
) -> AsyncGenerator[Page | None, None]:
    """The job's events after that number, for ever; None each second without Redis.

    An empty page says that nothing happened for `SILENCE_S`.
    """
    while True:
        with suppress(EphemeralDown):
            async with aclosing(streams.follow(job, after, SILENCE_S)) as following:
                async for page in following:
                    yield page
                    after = page.last
        yield None
        await asyncio.sleep(POLL_S)


async def has_ended(ledger: Ledger, job: UUID) -> bool:
    """False also while the ledger is away: somebody will ask again."""
    try:
        return await views.has_ended(ledger, job)
    except LedgerDown:
        return False


async def wait_until_ended(
    ledger: Ledger, streams: Streams, job: UUID, seconds: float, stopping: asyncio.Event
) -> None:
    """Return when the job has ended, the time is up, or this process is stopping."""
    waits = [
        asyncio.ensure_future(_until_ended(ledger, streams, job)),
        asyncio.ensure_future(stopping.wait()),
    ]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _until_ended(ledger: Ledger, streams: Streams, job: UUID) -> None:
    # First where the stream ends, then the state: an end in between is an event later.
    after = await _newest(streams, job)
    if await has_ended(ledger, job):
        return
    async with aclosing(pages(streams, job, after)) as following:
        async for page in following:
            if may_have_ended(page) and await has_ended(ledger, job):
                return


async def _newest(streams: Streams, job: UUID) -> int:
    try:
        return (await streams.read(job, NEWEST, 1)).last
    except EphemeralDown:
        return 0


def may_have_ended(page: Page | None) -> bool:
    """An end without its event shows in the ledger, so silence makes us look too."""
    if page is None or not page.events:
        return True
    return any(event.type == LAST_EVENT for event in page.events)
