"""The stores as a command uses them: without a log, for its own words are the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from llmgine_workers.events.emit import Events
from llmgine_workers.events.stream import StreamWriter
from llmgine_workers.runtime import Runtime, open_runtime
from llmgine_workers.settings import Settings


@asynccontextmanager
async def opened(
    settings: Settings, environ: Mapping[str, str]
) -> AsyncIterator[Runtime]:
    """A runtime whose facts reach the jobs' streams, and no log on stderr."""
    async with open_runtime(settings, environ) as rt:
        rt.events = Events([StreamWriter(rt.streams, keep_s=settings.redis.keep_streams)])
        try:
            yield rt
        finally:
            await rt.events.close()
