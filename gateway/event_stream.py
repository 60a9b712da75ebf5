"""A job's events, as they are sent: history, then live, then the end.

What Redis has lost is replaced by a snapshot from the ledger. An end that only the
ledger knows is numbered by its time in ms, above every number of the stream, so a
reader that comes back with that number is known to be done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from gateway.following import LAST_EVENT, has_ended, may_have_ended, pages
from llmgine_workers import clock
from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.ephemeral.streams import Page, Streams
from llmgine_workers.ledger import views
from llmgine_workers.ledger.connection import Ledger, while_away

PING = b": ping\n\n"
PING_EVERY_S = 15.0
_OUTCOME = ("state", "output", "error", "usage", "cost_usd", "dead_letter")


class Frame(NamedTuple):
    """One event for a reader: its number, its type, its JSON object."""

    seq: int
    kind: str
    data: bytes

    @property
    def sse(self) -> bytes:
        """As a server-sent event."""
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (
            self.seq,
            self.kind.encode(),
            self.data,
        )


async def is_all_told(ledger: Ledger, streams: Streams, job: UUID, after: int) -> bool:
    """Whether a reader that has seen `after` has seen the end: it is answered 204."""
    if after == 0 or not await views.has_ended(ledger, job):
        return False
    with suppress(EphemeralDown):
        page = await streams.read(job, after, 1)
        if page.events or not page.gap:
            return not page.events
    shown = await views.job(ledger, None, job)
    return shown is not None and after >= _end_number(shown)


async def as_sse(source: AsyncGenerator[Frame, None]) -> AsyncGenerator[bytes, None]:
    """The frames as server-sent events."""
    async with aclosing(source):
        async for frame in source:
            yield frame.sse


async def frames(
    ledger: Ledger, streams: Streams, job: UUID, after: int
) -> AsyncGenerator[Frame, None]:
    """Every event after that number, until the job's last one."""
    async with aclosing(pages(streams, job, after)) as following:
        async for page in following:
            ended = may_have_ended(page) and await has_ended(ledger, job)
            if ended and not _is_last(page):
                for frame in await _ending(ledger, job):
                    yield frame
                return
            for frame in await _told(ledger, job, after, page):
                yield frame
            if ended:
                return
            after = max(after, page.last) if page else after


async def with_pings(
    source: AsyncGenerator[bytes, None],
    stopping: asyncio.Event,
    every_s: float = PING_EVERY_S,
) -> AsyncGenerator[bytes, None]:
    """The frames with a ping after each silence; ends when the process is stopping."""
    stop = asyncio.ensure_future(stopping.wait())
    frame = asyncio.ensure_future(anext(source, None))
    try:
        while not stop.done():
            await asyncio.wait(
                {frame, stop}, timeout=every_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not frame.done():
                if not stop.done():
                    yield PING
                continue
            if (found := frame.result()) is None:
                return
            yield found
            frame = asyncio.ensure_future(anext(source, None))
    finally:
        for task in (frame, stop):
            task.cancel()
        await asyncio.gather(frame, stop, return_exceptions=True)


async def _told(ledger: Ledger, job: UUID, after: int, page: Page | None) -> list[Frame]:
    if page is None:
        return []
    told = [Frame(event.seq, event.type, event.data) for event in page.events]
    if page.gap:
        told.insert(0, await _snapshot(ledger, job, max(page.snapshot_seq, after)))
    return told


def _is_last(page: Page | None) -> bool:
    return page is not None and bool(page.events) and page.events[-1].type == LAST_EVENT


async def _snapshot(ledger: Ledger, job: UUID, seq: int) -> Frame:
    taken = await while_away(lambda: views.snapshot(ledger, job))
    return _made("stream.snapshot", seq, job, clock.rfc3339(clock.now()), snapshot=taken)


async def _ending(ledger: Ledger, job: UUID) -> list[Frame]:
    """The last two frames of a job whose stream is gone: all of it, and that it ended."""
    taken = await while_away(lambda: views.snapshot(ledger, job))
    if taken is None:
        return []
    shown, end = taken["job"], _end_number(taken["job"])
    at = shown["finished_at"]
    told = {name: shown[name] for name in _OUTCOME}
    return [
        _made("stream.snapshot", end - 1, job, at, snapshot=taken),
        _made(LAST_EVENT, end, job, at, **told),
    ]


def _end_number(shown: dict[str, Any]) -> int:
    return int(datetime.fromisoformat(shown["finished_at"]).timestamp() * 1000)


def _made(kind: str, seq: int, job: UUID, at: str | None, **fields: Any) -> Frame:
    data = {"type": kind, "seq": seq, "job": str(job), "at": at, **fields}
    return Frame(seq, kind, orjson.dumps(data))
