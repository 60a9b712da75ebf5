"""A job's events as the chunks of a `chat.completion`; its end is the ledger's."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import UUID

from gateway.context import Gateway
from gateway.event_stream import with_pings
from gateway.following import may_have_ended, pages
from gateway.front.calling import not_finished
from gateway.front.chat_answer import Chunks
from gateway.front.ends import end_if_known
from gateway.front.envelope import error, failure_of
from llmgine_workers.ephemeral.streams import Page


async def streamed(
    here: Gateway, tenant: str, job: UUID, chunks: Chunks
) -> AsyncGenerator[bytes, None]:
    """Chunks as they come, with a ping after each silence, to the last word."""
    frames = with_pings(_frames(here, tenant, job, chunks), here.stopping)
    async with aclosing(frames):
        async for frame in frames:
            yield frame
    if not chunks.is_over:
        yield chunks.fail(error(504, "not_finished", not_finished(job)))


async def _frames(
    here: Gateway, tenant: str, job: UUID, chunks: Chunks
) -> AsyncGenerator[bytes, None]:
    async with aclosing(pages(here.rt.streams, job, 0)) as following:
        async for page in following:
            if told := _told(page, chunks):
                yield told
            if chunks.is_over:
                return
            if may_have_ended(page):
                end = await end_if_known(here.rt.ledger, tenant, job)
                if end is not None and end.step is not None:
                    yield chunks.end(end.step)
                elif end is not None and end.failure is not None:
                    yield chunks.fail(failure_of(end.failure)[1])
                if chunks.is_over:
                    return


def _told(page: Page | None, chunks: Chunks) -> bytes:
    if page is None:
        return b""
    if page.gap:
        chunks.gap()
    return b"".join(chunks.event(event.type, event.data) for event in page.events)
