"""The calls of the client as conversations: nothing here sends, waits or reads a clock
but to know when its time is up.

A `Talk` is a generator that yields the next request and is sent the response, or is
thrown the exception in its place; what it returns is the answer to the caller. So the
blocking and the asynchronous client hold the same conversations.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any, Generic, TypeVar

import httpx2

from llmgine_workers.client import calls
from llmgine_workers.client.answers import (
    document_of,
    read,
    refuse_unless_success,
    unreachable,
)
from llmgine_workers.client.calls import Call, JobRef
from llmgine_workers.client.errors import JobFailed, Refused, Unavailable
from llmgine_workers.client.patience import Patience
from llmgine_workers.client.shapes import (
    Batch,
    Chain,
    Explanation,
    Job,
    Page,
    Shape,
    Step,
)

T = TypeVar("T")
Read = TypeVar("Read", bound=Shape)
Talk = Generator[Call, httpx2.Response, T]

WAIT_S = 30.0
"""For how long one request asks the gateway to wait: proxies often cut at 60 s."""
_EARLY_S = 0.5  # pause after a wait that was answered at once, by a gateway that stops


class Protocol:
    """Makes the conversations with the gateway at `url`."""

    def __init__(self, url: str, retry_s: float) -> None:
        self.url = url
        self.retry_s = retry_s

    def submit(self, work: Mapping[str, Any], key: str | None) -> Talk[Job]:
        """Submit one job."""
        call = calls.post("/v1/jobs", calls.submission(work), key=key)
        return (yield from self.read(Job, call))

    def submit_many(self, jobs: Iterable[calls.Work], key: str | None) -> Talk[Batch]:
        """Submit all of them or none."""
        call = calls.post("/v1/batches", calls.batch(jobs), key=key)
        return (yield from self.read(Batch, call))

    def run(self, work: Mapping[str, Any], key: str | None) -> Talk[Job]:
        """Submit and wait; one round trip for a job that is quick."""
        body = calls.submission(work)
        call = calls.post("/v1/jobs", body, key=key, wait_s=WAIT_S)
        job = yield from self.read(Job, call)
        return _concluded(job) if job.ended else (yield from self.wait(job, None))

    def wait(self, job: JobRef, timeout_s: float | None) -> Talk[Job]:
        """Ask until it has ended or the time is up."""
        until = math.inf if timeout_s is None else monotonic() + timeout_s
        pause_s = 0.0
        while True:
            began = monotonic()
            wait_s = min(WAIT_S, max(0.0, until - began - pause_s))
            call = calls.get(calls.job_path(job), wait_s=wait_s)
            call = replace(call, pause_s=pause_s)
            found = yield from self.read(Job, call, until - began)
            if found.ended:
                return _concluded(found)
            if monotonic() >= until:
                raise TimeoutError(f"job {found.id} is {found.state} after {timeout_s} s")
            pause_s = _EARLY_S if monotonic() - began < wait_s / 2 else 0.0

    def cancel(self, job: JobRef) -> Talk[Job]:
        """Cancel it; that it was cancelled before is no refusal."""
        try:
            call = calls.post(calls.job_path(job, "cancel"))
            return (yield from self.read(Job, call))
        except Refused as refused:
            if refused.code != "already_finished":
                raise
            found = yield from self.job(job)
            if found.state != "cancelled":
                raise
            return found

    def job(self, job: JobRef) -> Talk[Job]:
        """One job."""
        return (yield from self.read(Job, calls.get(calls.job_path(job))))

    def explain(self, job: JobRef) -> Talk[Explanation]:
        """Why it is where it is."""
        return (
            yield from self.read(Explanation, calls.get(calls.job_path(job, "explain")))
        )

    def step(self, job: JobRef, path: str) -> Talk[Step]:
        """One step of a job."""
        return (yield from self.read(Step, calls.get(calls.job_path(job, "steps", path))))

    def batch(self, batch_id: str) -> Talk[Batch]:
        """One batch."""
        return (yield from self.read(Batch, calls.get(calls.batch_path(batch_id))))

    def jobs(self, wanted: calls.Wanted, limit: int | None) -> Listing[Job]:
        """The tenant's jobs, newest first."""
        return Listing(self, Job, "/v1/jobs", calls.filters(wanted), limit)

    def steps(self, job: JobRef) -> Listing[Step]:
        """The steps of a job."""
        return Listing(self, Step, calls.job_path(job, "steps"), {}, None)

    def chains(self) -> Listing[Chain]:
        """The registry."""
        return Listing(self, Chain, "/v1/chains", {}, None)

    def read(
        self, shape: type[Read], call: Call, retry_s: float = math.inf
    ) -> Talk[Read]:
        """What the call is answered with, in the end."""
        response = yield from self._answered(call, min(retry_s, self.retry_s))
        return read(shape, document_of(response))

    def _answered(self, call: Call, retry_s: float) -> Talk[httpx2.Response]:
        """The first success; what may pass is borne with, what may not is raised."""
        patience = Patience(retry_s)
        while True:
            try:
                response = yield call
                refuse_unless_success(response)
                return response
            except httpx2.RequestError as error:
                trouble = unreachable(self.url, error)
            except Unavailable as unavailable:
                trouble = unavailable
            call = replace(call, pause_s=patience.bear(trouble))


class Listing(Generic[Read]):
    """A list that is read page by page, each no larger than what is still wanted."""

    def __init__(
        self,
        protocol: Protocol,
        item: type[Read],
        path: str,
        query: Mapping[str, str],
        limit: int | None,
    ) -> None:
        self._protocol = protocol
        self._page = Page[item]  # type: ignore[valid-type]
        self._path = path
        self._query = query
        self._left = math.inf if limit is None else limit
        self._cursor: str | None = None
        self.done = self._left <= 0

    def next_page(self) -> Talk[tuple[Read, ...]]:
        """The next items; `done` says whether they were the last."""
        size = int(min(calls.MAX_PAGE, self._left))
        query = {**self._query, "limit": str(size)}
        if self._cursor is not None:
            query["cursor"] = self._cursor
        call = Call("GET", self._path, query)
        page = yield from self._protocol.read(self._page, call)
        self._left -= len(page.data)
        self._cursor = page.next_cursor
        self.done = self._cursor is None or self._left <= 0
        return page.data


def _concluded(job: Job) -> Job:
    if job.state != "succeeded":
        raise JobFailed(job)
    return job
