"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Self, TypeVar, Unpack

import httpx2

from llmgine_workers.client.calls import JobRef, More, Wanted, Work
from llmgine_workers.client.connection import HELD, QUICK, RETRY_S, Gateway
from llmgine_workers.client.events import Event
from llmgine_workers.client.following import Following
from llmgine_workers.client.protocol import Listing, Protocol, Talk
from llmgine_workers.client.shapes import Batch, Chain, Explanation, Job, Shape, Step

T = TypeVar("T")
Item = TypeVar("Item", bound=Shape)


class AsyncClient:
    """`Client` for asyncio: the same methods with the same meaning, awaited.

    `stream`, `jobs`, `steps` and `chains` are read with `async for`.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        retry_s: float = RETRY_S,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        gateway = Gateway.given(url, api_key)
        self._protocol = Protocol(gateway.url, retry_s)
        self._quick = httpx2.AsyncClient(transport=transport, **gateway.settings(QUICK))
        self._held = httpx2.AsyncClient(transport=transport, **gateway.settings(HELD))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._quick.aclose()
        await self._held.aclose()

    async def submit(
        self,
        chain: str | Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **more: Unpack[More],
    ) -> Job:
        """See `Client.submit`."""
        work = {"chain": chain, "inputs": inputs, **more}
        return await self._hold(self._protocol.submit(work, idempotency_key))

    async def submit_many(
        self, jobs: Iterable[Work], *, idempotency_key: str | None = None
    ) -> Batch:
        """See `Client.submit_many`."""
        return await self._hold(self._protocol.submit_many(jobs, idempotency_key))

    async def run(
        self,
        chain: str | Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **more: Unpack[More],
    ) -> Job:
        """See `Client.run`."""
        work = {"chain": chain, "inputs": inputs, **more}
        return await self._hold(self._protocol.run(work, idempotency_key))

    async def wait(self, job: JobRef, timeout: float | None = None) -> Job:  # noqa: ASYNC109 - the job's, asked of the gateway
        """See `Client.wait`."""
        return await self._hold(self._protocol.wait(job, timeout))

    async def stream(self, job: JobRef, *, after: int = 0) -> AsyncGenerator[Event, None]:
        """See `Client.stream`. Who leaves early closes it: `contextlib.aclosing`."""
        protocol = self._protocol
        following = Following(protocol.url, job, after, protocol.retry_s)
        while (call := following.next_call()) is not None:
            await asyncio.sleep(call.pause_s)
            with following.connection():
                async with self._held.sse(**call.sent(), max_event_size=None) as source:
                    if not source.response.is_success:
                        await source.response.aread()
                    if following.opened(source.response):
                        async for frame in source:
                            yield following.event(frame)

    async def cancel(self, job: JobRef) -> Job:
        """See `Client.cancel`."""
        return await self._hold(self._protocol.cancel(job))

    async def job(self, job: JobRef) -> Job:
        """See `Client.job`."""
        return await self._hold(self._protocol.job(job))

    async def explain(self, job: JobRef) -> Explanation:
        """See `Client.explain`."""
        return await self._hold(self._protocol.explain(job))

    def jobs(
        self, *, limit: int | None = None, **wanted: Unpack[Wanted]
    ) -> AsyncGenerator[Job, None]:
        """See `Client.jobs`."""
        return self._each(self._protocol.jobs(wanted, limit))

    def steps(self, job: JobRef) -> AsyncGenerator[Step, None]:
        """See `Client.steps`."""
        return self._each(self._protocol.steps(job))

    async def step(self, job: JobRef, path: str) -> Step:
        """See `Client.step`."""
        return await self._hold(self._protocol.step(job, path))

    async def batch(self, batch_id: str) -> Batch:
        """See `Client.batch`."""
        return await self._hold(self._protocol.batch(batch_id))

    def chains(self) -> AsyncGenerator[Chain, None]:
        """See `Client.chains`."""
        return self._each(self._protocol.chains())

    async def _each(self, listing: Listing[Item]) -> AsyncGenerator[Item, None]:
        while not listing.done:
            for item in await self._hold(listing.next_page()):
                yield item

    async def _hold(self, talk: Talk[T]) -> T:
        try:
            call = next(talk)
            while True:
                await asyncio.sleep(call.pause_s)
                try:
                    http = self._held if call.is_held else self._quick
                    response = await http.request(**call.sent())
                except httpx2.RequestError as error:
                    call = talk.throw(error)
                else:
                    call = talk.send(response)
        except StopIteration as end:
            answer: T = end.value
            return answer
