"""The client for ordinary code. Safe to share between threads."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
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


class Client:
    """Submits jobs to a gateway, waits for them and reads what they say.

    Without `url` and `api_key` both come from LLMGINE_URL and LLMGINE_API_KEY.
    While the gateway is away or asks for patience, a call tries again for `retry_s`
    seconds, then raises Unavailable. Repeated or not, one call makes one job.
    Every method may raise Refused, Unauthenticated, Unavailable and BadAnswer.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        retry_s: float = RETRY_S,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        gateway = Gateway.given(url, api_key)
        self._protocol = Protocol(gateway.url, retry_s)
        self._quick = httpx2.Client(transport=transport, **gateway.settings(QUICK))
        self._held = httpx2.Client(transport=transport, **gateway.settings(HELD))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._quick.close()
        self._held.close()

    def submit(
        self,
        chain: str | Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **more: Unpack[More],
    ) -> Job:
        """Submit a chain, by name or written out, or `tool=` with `arguments=`.

        Returns as soon as the job is kept. A key of your own makes also a repeated
        *call* one job, for 24 hours and at least until the job ends.
        """
        work = {"chain": chain, "inputs": inputs, **more}
        return self._hold(self._protocol.submit(work, idempotency_key))

    def submit_many(
        self, jobs: Iterable[Work], *, idempotency_key: str | None = None
    ) -> Batch:
        """Submit up to 1,000 jobs, all or none; `jobs(batch=...)` lists them."""
        return self._hold(self._protocol.submit_many(jobs, idempotency_key))

    def run(
        self,
        chain: str | Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **more: Unpack[More],
    ) -> Job:
        """`submit` and `wait`; the job's own `timeout` bounds both."""
        work = {"chain": chain, "inputs": inputs, **more}
        return self._hold(self._protocol.run(work, idempotency_key))

    def wait(self, job: JobRef, timeout: float | None = None) -> Job:
        """The job once it has succeeded; JobFailed if it ended otherwise.

        TimeoutError if it has not ended after `timeout` seconds; it goes on all the same.
        """
        return self._hold(self._protocol.wait(job, timeout))

    def stream(self, job: JobRef, *, after: int = 0) -> Iterator[Event]:
        """Its events behind number `after`, history first, then live, until its end.

        A lost connection is taken up where it broke: no event is missing or told twice.
        Where the gateway no longer has an event, a StreamSnapshot stands in its place.
        """
        protocol = self._protocol
        following = Following(protocol.url, job, after, protocol.retry_s)
        while (call := following.next_call()) is not None:
            time.sleep(call.pause_s)
            with (
                following.connection(),
                # No bound on an event: it is as large as the output it carries.
                self._held.sse(**call.sent(), max_event_size=None) as source,
            ):
                if not source.response.is_success:
                    source.response.read()
                if following.opened(source.response):
                    yield from map(following.event, source)

    def cancel(self, job: JobRef) -> Job:
        """Cancel it. Refused (`already_finished`) if it succeeded or failed before."""
        return self._hold(self._protocol.cancel(job))

    def job(self, job: JobRef) -> Job:
        """The job as it stands, however it ended."""
        return self._hold(self._protocol.job(job))

    def explain(self, job: JobRef) -> Explanation:
        """Why it is where it is, in a sentence."""
        return self._hold(self._protocol.explain(job))

    def jobs(
        self, *, limit: int | None = None, **wanted: Unpack[Wanted]
    ) -> Iterator[Job]:
        """The tenant's jobs, newest first, at most `limit`; pages come as needed."""
        return self._each(self._protocol.jobs(wanted, limit))

    def steps(self, job: JobRef) -> Iterator[Step]:
        """Its steps in the order they became ready, without their attempts."""
        return self._each(self._protocol.steps(job))

    def step(self, job: JobRef, path: str) -> Step:
        """One of its steps, with its attempts."""
        return self._hold(self._protocol.step(job, path))

    def batch(self, batch_id: str) -> Batch:
        """How the jobs of a batch stand."""
        return self._hold(self._protocol.batch(batch_id))

    def chains(self) -> Iterator[Chain]:
        """What can be submitted by name."""
        return self._each(self._protocol.chains())

    def _each(self, listing: Listing[Item]) -> Iterator[Item]:
        while not listing.done:
            yield from self._hold(listing.next_page())

    def _hold(self, talk: Talk[T]) -> T:
        try:
            call = next(talk)
            while True:
                time.sleep(call.pause_s)
                try:
                    http = self._held if call.is_held else self._quick
                    response = http.request(**call.sent())
                except httpx2.RequestError as error:
                    call = talk.throw(error)
                else:
                    call = talk.send(response)
        except StopIteration as end:
            answer: T = end.value
            return answer
