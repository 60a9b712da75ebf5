"""Cancel, seen from outside: by the client, by a real worker, and by the provider."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
from fastapi import FastAPI

from chains import load_chain
from gateway.app import create_app
from llmgine_workers import clock, keys, scheduler
from llmgine_workers.engine import cancel
from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.ledger import api_keys
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.runtime import Runtime
from llmgine_workers.settings import Settings
from llmgine_workers.simulator import Simulator, SimulatorConfig
from llmgine_workers.simulator.call_log import CallRecord
from tests.gateway.conftest import CHAIN, Live, Seat, StandIn, served
from tests.gateway.test_routes import body_of, code_of, get

PREFIX = "cancel_test"
BY_REDIS_S, BY_BEAT_S = 5.0, 15.0
BOUND_S = 20.0
WORKER = [sys.executable, "-m", "celery", "-A", "llmgine_workers.worker", "worker"]
TOML = """
ledger = {{url = "{ledger}"}}
broker = {{url = "{redis}", prefix = "{prefix}"}}
redis = {{url = "{redis}"}}
worker = {{slots = 20, grace = "5s"}}
[providers.openai]
wire = "openai"
key_env = ""
base_url = "{simulator}/v1"
simulated = true
"""


@dataclass(frozen=True)
class Site:
    """A gateway, a scheduler, a worker process and a provider that takes its time."""

    app: FastAPI
    rt: Runtime
    client: httpx2.AsyncClient
    simulator: Simulator

    async def submit(self, text: str = "Prices rose.", **options: Any) -> str:
        body = {"chain": "summarize", "inputs": {"text": text}, "options": options}
        answer = await self.client.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def cancel(self, job: str) -> httpx2.Response:
        return await self.client.post(f"/v1/jobs/{job}/cancel")

    async def ended(self, job: str) -> dict[str, Any]:
        shown = (await self.client.get(f"/v1/jobs/{job}?wait=10")).json()
        assert shown["finished_at"], shown
        return dict(shown)

    def calls_of(self, job: str) -> list[CallRecord]:
        return [call for call in self.simulator.calls if call.job == job]

    async def calling(self, job: str) -> CallRecord:
        """The one call of a job, once its answer has begun."""
        await until(lambda: any(call.first_byte_at for call in self.calls_of(job)))
        (call,) = self.calls_of(job)
        assert call.ended is None
        return call


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
async def site(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("cancel")
    slow = SimulatorConfig(first_token=0.05, chunk_rate=5, chunks=500, answer_tokens=500)
    async with Simulator(slow) as simulator:
        toml = TOML.format(
            ledger=postgres_url, redis=redis_url, prefix=PREFIX, simulator=simulator.url
        )
        (folder / "llmgine.toml").write_text(toml)
        settings = Settings.model_validate(
            {
                "ledger": {"url": postgres_url},
                "broker": {"url": redis_url, "prefix": PREFIX},
                "redis": {"url": redis_url},
                "providers": {"openai": {"wire": "openai", "simulated": True}},
            }
        )
        ledger = Ledger(postgres_url, PREFIX, connections=1)
        await migrate(ledger)
        made = keys.new_key()
        await api_keys.insert(ledger, made.id, made.hash, "acme", ("submit", "read"))
        await ledger.close()
        app = create_app(settings, {})
        headers = {"Authorization": f"Bearer {made.text}"}
        async with (
            app.router.lifespan_context(app),
            served(app) as url,
            httpx2.AsyncClient(base_url=url, headers=headers, timeout=BOUND_S) as client,
            worker_process(folder),
        ):
            rt = app.state.gateway.rt
            await rt.chains.push(load_chain(CHAIN))
            duties = asyncio.ensure_future(scheduler.run(rt))
            try:
                yield Site(app, rt, client, simulator)
            finally:
                duties.cancel()
                await asyncio.gather(duties, return_exceptions=True)


@asynccontextmanager
async def worker_process(folder: Path) -> AsyncIterator[None]:
    with (folder / "worker.log").open("wb") as log:
        running = await asyncio.create_subprocess_exec(
            *WORKER, "-Q", f"{PREFIX}.openai", cwd=folder, stdout=log, stderr=log
        )
    try:
        yield
        assert running.returncode is None, (folder / "worker.log").read_text()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


@pytest.mark.integration
async def test_a_cancelled_call_is_closed_within_a_second_and_billed(site: Site) -> None:
    job = await site.submit(text="Prices rose again and again. " * 20)
    call = await site.calling(job)
    begun = time.perf_counter()
    answer = await site.cancel(job)
    assert answer.status_code == 202, answer.text
    await until(lambda: call.ended is not None)
    assert time.perf_counter() - begun < BY_REDIS_S
    assert call.ended == "cut"
    assert call.chunks_sent < 500
    shown = await site.ended(job)
    assert shown["state"] == "cancelled"
    assert (shown["error"], shown["dead_letter"], shown["output"]) == (None, None, None)
    assert shown["cost_usd"] > 0
    assert shown["usage"]["input_tokens"] > 50
    assert shown["usage"]["output_tokens"] > 0
    step = (await site.client.get(f"/v1/jobs/{job}/steps/draft")).json()
    assert (step["state"], step["attempts"][0]["state"]) == ("cancelled", "cancelled")
    assert step["attempts"][0]["cost_usd"] == shown["cost_usd"]
    again = await site.cancel(job)
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")
    assert len(site.calls_of(job)) == 1


@pytest.mark.integration
async def test_a_plain_call_is_closed_as_well(site: Site) -> None:
    job = await site.submit(text="[[sim:latency=60s]]", stream=False)
    await until(lambda: bool(site.calls_of(job)))
    (call,) = site.calls_of(job)
    begun = time.perf_counter()
    assert (await site.cancel(job)).status_code == 202
    await until(lambda: call.ended is not None)
    assert (call.ended, time.perf_counter() - begun < BY_REDIS_S) == ("cut", True)
    assert (await site.ended(job))["state"] == "cancelled"


@pytest.mark.integration
async def test_without_redis_the_beat_tells_the_worker(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unheard(*_: Any) -> None:
        raise EphemeralDown("no")

    monkeypatch.setattr(site.rt.signals, "cancel", unheard)
    job = await site.submit()
    call = await site.calling(job)
    begun = time.perf_counter()
    answer = await site.cancel(job)
    assert (answer.status_code, answer.json()["state"]) == (202, "running")
    assert "is to end as cancelled" in await sentence(site, job)
    await until(lambda: call.ended is not None)
    assert (call.ended, time.perf_counter() - begun < BY_BEAT_S) == ("cut", True)
    assert (await site.ended(job))["state"] == "cancelled"


@pytest.mark.integration
async def test_a_reader_of_the_events_hears_the_cancel(site: Site) -> None:
    job = await site.submit()
    heard = []
    async with site.client.stream("GET", f"/v1/jobs/{job}/events") as events:
        async for line in events.aiter_lines():
            heard += [line] if line.startswith("event: ") else []
            if line == "event: step.delta" and heard.count(line) == 1:
                assert (await site.cancel(job)).status_code == 202
    assert heard[-2:] == ["event: step.finished", "event: job.finished"]


@pytest.mark.integration
async def test_thirty_jobs_cancelled_while_they_begin_all_end_and_are_billed_once(
    site: Site,
) -> None:
    """Cancels that meet the claim, the call or the queue: each job has one end."""
    jobs = [await site.submit() for _ in range(30)]

    async def cancelled_after(job: str, seconds: float) -> httpx2.Response:
        await asyncio.sleep(seconds)
        return await site.cancel(job)

    answers = await asyncio.gather(
        *(cancelled_after(job, n * 0.01) for n, job in enumerate(jobs))
    )
    assert {answer.status_code for answer in answers} == {202}
    for job in jobs:
        shown = await site.ended(job)
        assert (shown["state"], shown["progress"]["cancelled"]) == ("cancelled", 1)
        assert {call.ended for call in site.calls_of(job)} <= {"cut"}
        assert len(site.calls_of(job)) <= 1
        assert shown["usage"]["calls"] >= len(site.calls_of(job))


async def sentence(site: Site, job: str) -> str:
    return str((await site.client.get(f"/v1/jobs/{job}/explain")).json()["sentence"])


async def cancelled(live: Live, seat: Seat, job: UUID) -> httpx2.Response:
    return await live.client.post(f"/v1/jobs/{job}/cancel", headers=seat.headers)


@pytest.mark.integration
async def test_a_queued_job_is_cancelled_at_once_and_again_means_nothing(
    live: Live,
) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    first = body_of(live, await cancelled(live, seat, job), "Job", 202)
    assert (first["state"], first["progress"]["cancelled"]) == ("cancelled", 1)
    assert first["cost_usd"] == 0
    again = body_of(live, await cancelled(live, seat, job), "Job", 200)
    assert again == first
    events = await live.client.get(f"/v1/jobs/{job}/events", headers=seat.headers)
    assert events.text.count("event: job.finished") == 1


@pytest.mark.integration
@pytest.mark.parametrize("end", ["succeeded", "failed"])
async def test_a_job_that_has_ended_otherwise_cannot_be_cancelled(
    live: Live, end: str
) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    await (live.succeed(job) if end == "succeeded" else live.fail(job))
    answer = await cancelled(live, seat, job)
    assert code_of(live, answer, 409) == "already_finished"
    assert end in answer.json()["detail"]
    shown = body_of(live, await get(live, f"/v1/jobs/{job}", seat), "Job")
    assert shown["state"] == end


@pytest.mark.integration
async def test_nobody_cancels_anothers_job_or_one_that_is_not(live: Live) -> None:
    owner, stranger = await live.seat("submit", "read"), await live.seat("submit")
    job = await live.submitted(owner)
    for one in (job, clock.uuid7()):
        assert code_of(live, await cancelled(live, stranger, one), 404) == "not_found"
    reader = await live.seat("read", tenant=owner.tenant)
    assert code_of(live, await cancelled(live, reader, job), 403) == "missing_scope"
    shown = body_of(live, await get(live, f"/v1/jobs/{job}", owner), "Job")
    assert shown["state"] == "queued"


@pytest.mark.integration
async def test_who_may_only_submit_sees_no_payloads_when_cancelling(live: Live) -> None:
    seat = await live.seat("submit")
    job = await live.submitted(seat)
    shown = body_of(live, await cancelled(live, seat, job), "Job", 202)
    assert (shown["state"], shown["inputs"]) == ("cancelled", None)


@pytest.mark.integration
async def test_many_cancels_at_once_have_one_first(live: Live) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    found = await asyncio.gather(
        *(cancel.cancel(live.rt, seat.tenant, job) for _ in range(10))
    )
    assert sorted(found, key=str) == [False] * 9 + [True]


@pytest.mark.parametrize("job", ["1", "%00", "x" * 1000])
async def test_what_is_no_id_cannot_be_cancelled(standin: StandIn, job: str) -> None:
    headers = standin.seat("submit").headers
    answer = await standin.client.post(f"/v1/jobs/{job}/cancel", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
