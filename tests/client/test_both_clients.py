"""The same calls through both clients, against the real gateway."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx2
import pytest

from llmgine_workers import AsyncClient, Client
from llmgine_workers.client import (
    Job,
    JobFailed,
    JobFinished,
    JobQueued,
    Refused,
    StepDelta,
    StepQueued,
    StepStarted,
    StreamSnapshot,
    Text,
    Unauthenticated,
    Unavailable,
    asynchronous,
    blocking,
    calls,
)
from llmgine_workers.events import facts
from tests.client.conftest import Face
from tests.gateway.conftest import CHAIN, Live, Seat

pytestmark = pytest.mark.integration

INPUTS = {"text": "Prices rose."}
NOBODYS = str(UUID(int=7))
BOUND_S = 10


async def ends_with(live: Live, waiting: asyncio.Future[Any], job: Job) -> Any:
    """What is answered to a wait once the job has succeeded."""
    await live.succeed(UUID(job.id))
    return await asyncio.wait_for(waiting, BOUND_S)


async def test_a_job_is_submitted_and_looked_at(client: Face, seat: Seat) -> None:
    made: Job = await client.submit(
        "summarize", INPUTS, metadata={"order": "A-17"}, priority="batch", timeout=90,
        max_attempts=3, max_cost_usd=0.05, stream=False,
    )  # fmt: skip
    assert (made.state, made.ended, made.tenant) == ("queued", False, seat.tenant)
    assert (made.chain.name, made.metadata) == ("summarize", {"order": "A-17"})
    assert made.inputs == {**INPUTS, "sentences": 3}
    options = made.options
    assert (options.priority, options.timeout_s) == ("batch", 90)
    assert (options.max_attempts, options.max_cost_usd) == (3, 0.05)
    assert options.stream is False
    assert await client.job(made) == await client.job(made.id) == made


async def test_a_value_is_what_the_gateway_wrote(
    client: Face, live: Live, seat: Seat
) -> None:
    made = await client.submit({**CHAIN, "name": "mine"}, INPUTS)
    await live.fail(UUID(made.id))
    raw = await live.client.get(f"/v1/jobs/{made.id}", headers=seat.headers)
    assert (await client.job(made)).document() == raw.json()
    raw = await live.client.get(f"/v1/jobs/{made.id}/steps/draft", headers=seat.headers)
    assert (await client.step(made, "draft")).document() == raw.json()


async def test_a_key_of_ones_own_makes_a_repeated_call_one_job(client: Face) -> None:
    first = await client.submit("summarize", INPUTS, idempotency_key="A-17")
    again = await client.submit("summarize", INPUTS, idempotency_key="A-17")
    other = await client.submit("summarize", INPUTS)
    assert first.id == again.id != other.id
    with pytest.raises(Refused) as told:
        await client.submit("summarize", {"text": "x"}, idempotency_key="A-17")
    assert told.value.code == "idempotency_mismatch"


async def test_a_wait_ends_with_the_job(client: Face, live: Live) -> None:
    job = await client.submit("summarize", INPUTS)
    waiting = asyncio.ensure_future(client.wait(job))
    await asyncio.wait({waiting}, timeout=0.2)
    assert not waiting.done()
    ended = await ends_with(live, waiting, job)
    assert (ended.state, ended.output) == ("succeeded", "Prices rose")


async def test_a_wait_has_a_time_of_its_own(client: Face) -> None:
    job = await client.submit("summarize", INPUTS)
    with pytest.raises(TimeoutError, match=job.id):
        await client.wait(job, timeout=0.2)
    assert (await client.job(job)).state == "queued"


async def test_a_failed_job_is_raised_where_it_was_waited_for(
    client: Face, live: Live
) -> None:
    job = await client.submit("summarize", INPUTS)
    await live.fail(UUID(job.id))
    with pytest.raises(JobFailed, match="at draft: tool_failed") as told:
        await client.wait(job)
    assert told.value.error is not None
    assert told.value.error.code == "tool_failed"
    assert told.value.job == await client.job(job)


async def test_a_run_is_a_job_and_its_end(client: Face, live: Live) -> None:
    running = asyncio.ensure_future(client.run("summarize", INPUTS))
    async with asyncio.timeout(BOUND_S):
        while not (made := await client.jobs(limit=1)):
            assert not running.done()
    ended = await ends_with(live, running, made[0])
    assert (ended.id, ended.output) == (made[0].id, "Prices rose")


async def test_waits_and_streams_keep_no_call_from_its_turn(
    kind: type[Client | AsyncClient],
    live: Live,
    seat: Seat,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (blocking, asynchronous):
        monkeypatch.setattr(module, "QUICK", httpx2.Limits(max_connections=1))
    client = Face(kind(live.url, seat.text))
    job = await client.submit("summarize", INPUTS)
    holding = asyncio.gather(client.wait(job), client.wait(job), client.stream(job))
    async with asyncio.timeout(BOUND_S):
        made = await asyncio.gather(*(client.submit("summarize", INPUTS) for _ in "ab"))
    assert not holding.done()
    assert len({one.id for one in made}) == 2
    ended, *_ = await ends_with(live, holding, job)
    assert ended.state == "succeeded"
    await client.close()


async def test_jobs_may_be_submitted_together(client: Face, live: Live) -> None:
    jobs = [{"chain": "summarize", "inputs": INPUTS, "timeout": 90}] * 3
    batch = await client.submit_many(jobs)
    again = await client.submit_many(jobs, idempotency_key="A-17")
    assert (batch.total, batch.counts["queued"], batch.cost_usd) == (3, 3, 0)
    made = await client.jobs(batch=batch.id)
    assert [job.batch for job in made] == [batch.id] * 3
    assert {job.options.timeout_s for job in made} == {90}
    await live.succeed(UUID(made[0].id))
    assert (await client.batch(batch.id)).counts["succeeded"] == 1
    repeated = await client.submit_many(jobs, idempotency_key="A-17")
    assert repeated.id == again.id != batch.id


async def test_one_bad_job_refuses_all_of_them(client: Face) -> None:
    good = {"chain": "summarize", "inputs": INPUTS}
    with pytest.raises(Refused) as told:
        await client.submit_many([good, {**good, "priority": "high"}, {"chain": "none"}])
    pointers = [found.pointer for found in told.value.findings]
    assert any(pointer.startswith("/jobs/1/") for pointer in pointers)
    assert await client.jobs() == []


async def test_a_job_is_cancelled_once_and_for_all(client: Face, live: Live) -> None:
    job = await client.submit("summarize", INPUTS)
    first = await client.cancel(job)
    again = await client.cancel(job)
    assert first.id == again.id == job.id
    with pytest.raises(JobFailed, match="was cancelled"):
        await client.wait(job, timeout=BOUND_S)
    done = await client.submit("summarize", INPUTS)
    await live.succeed(UUID(done.id))
    with pytest.raises(Refused) as told:
        await client.cancel(done)
    assert told.value.code == "already_finished"


async def test_a_job_is_explained(client: Face) -> None:
    job = await client.submit("summarize", INPUTS)
    told = await client.explain(job)
    assert "draft" in told.sentence
    assert told.waiting is None


async def test_a_stream_is_read_to_its_end_and_from_any_place(
    client: Face, live: Live
) -> None:
    job = await client.submit("summarize", INPUTS)
    uuid = UUID(job.id)
    reading = asyncio.ensure_future(client.stream(job))
    await live.rt.events.emit(facts.StepStarted(uuid, "draft", 1, "openai/gpt-5-mini"))
    await live.rt.events.emit(facts.StepDelta(uuid, "draft", 1, text="Prices"))
    await live.rt.events.emit(facts.StepDelta(uuid, "draft", 1, text=" rose"))
    events = await ends_with(live, reading, job)
    assert [type(event) for event in events[:3]] == [JobQueued, StepQueued, StepStarted]
    assert {type(event) for event in events[3:-1]} == {StepDelta}
    assert isinstance(events[-1], JobFinished)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert list(Text(events))[-1] == "Prices rose"
    assert await client.stream(job, after=3) == events[3:]
    assert await client.stream(job, after=events[-1].seq) == []


async def test_a_lost_stream_is_told_as_a_snapshot(client: Face, live: Live) -> None:
    job = await client.submit("summarize", INPUTS)
    large = "Prices rose. " * 100_000
    await live.succeed(UUID(job.id), large, told=False)
    await live.rt.streams.expire(UUID(job.id), 0)
    snapshot, finished = await client.stream(job, after=2)
    assert isinstance(snapshot, StreamSnapshot)
    assert snapshot.snapshot is not None
    assert snapshot.snapshot.job.id == job.id
    assert isinstance(finished, JobFinished)
    assert list(Text([snapshot])) == [large]


async def test_lists_come_whole_however_small_their_pages(
    client: Face, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_PAGE", 2)
    made = [
        await client.submit("summarize", INPUTS, metadata={"n": str(n)}) for n in range(5)
    ]
    newest_first = [job.id for job in reversed(made)]
    assert [job.id for job in await client.jobs()] == newest_first
    assert [job.id for job in await client.jobs(limit=3)] == newest_first[:3]
    assert [job.id for job in await client.jobs(metadata={"n": "1"})] == [made[1].id]
    await live.succeed(UUID(made[0].id))
    assert [job.id for job in await client.jobs(state="succeeded")] == [made[0].id]
    later = await client.jobs(created_after=made[-1].created_at)
    assert len(later) <= 1
    assert [step.path for step in await client.steps(made[0])] == ["draft"]


async def test_the_registry_is_listed(client: Face) -> None:
    (found,) = [chain for chain in await client.chains() if chain.name == "summarize"]
    assert found.description == "Say it shorter."
    assert found.inputs["sentences"]["maximum"] == 20


async def test_a_refusal_names_everything_at_once(client: Face) -> None:
    with pytest.raises(Refused) as told:
        await client.submit("summarize", INPUTS, priority="high", max_attempts=0)
    assert told.value.status == 422
    assert {found.pointer for found in told.value.findings} == {
        "/options/priority", "/options/max_attempts",
    }  # fmt: skip
    with pytest.raises(Refused) as told:
        await client.stream(NOBODYS)
    assert told.value.code == "not_found"


async def test_without_a_known_key_nothing_goes(
    kind: type[Client | AsyncClient], live: Live
) -> None:
    stranger = Face(kind(live.url))
    for call in (stranger.submit("summarize", INPUTS), stranger.stream(NOBODYS)):
        with pytest.raises(Unauthenticated):
            await call
    await stranger.close()


async def test_where_nobody_listens_a_call_ends(
    kind: type[Client | AsyncClient],
) -> None:
    nobody = Face(kind("http://127.0.0.1:1", retry_s=0.2))
    for call in (nobody.submit("summarize", INPUTS), nobody.stream(NOBODYS)):
        with pytest.raises(Unavailable, match=r"no answer from http://127\.0\.0\.1:1"):
            await call
    await nobody.close()


class Loses(httpx2.HTTPTransport):
    """Every other answer is lost after the gateway gave it."""

    sent = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = super().handle_request(request)
        self.sent += 1
        if self.sent % 2:
            answer.close()
            raise httpx2.ReadError("lost")
        return answer


class LosesAsync(httpx2.AsyncHTTPTransport):
    """The same for asyncio."""

    sent = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = await super().handle_async_request(request)
        self.sent += 1
        if self.sent % 2:
            await answer.aclose()
            raise httpx2.ReadError("lost")
        return answer


@pytest.mark.parametrize("client_of", [Client, AsyncClient])
async def test_lost_answers_make_no_second_job(
    client_of: type[Client] | type[AsyncClient], live: Live, seat: Seat
) -> None:
    if issubclass(client_of, Client):
        client = Face(client_of(live.url, seat.text, transport=Loses()))
    else:
        client = Face(client_of(live.url, seat.text, transport=LosesAsync()))
    made = [await client.submit("summarize", INPUTS) for _ in range(5)]
    batch = await client.submit_many([{"chain": "summarize", "inputs": INPUTS}] * 2)
    kept = {job.id for job in await client.jobs()}
    together = {job.id for job in await client.jobs(batch=batch.id)}
    assert len(together) == 2
    assert kept == {job.id for job in made} | together
    assert len(kept) == 7
    await client.close()
