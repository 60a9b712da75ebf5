from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from uuid import UUID

import httpx2
import pytest

from gateway.errors import PROBLEMS, Problem
from gateway.routes.batches import BODIES
from gateway.submission import batch_requests
from llmgine_workers import clock
from tests.gateway.conftest import MAX_BODY, Live, Seat, StandIn
from tests.gateway.test_routes import BODY, body_of, code_of, get

STATES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")


def jobs_of(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{**BODY, "metadata": {"n": str(n)}, **more} for n in range(count)]


def refused(body: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        batch_requests(body)
    return caught.value


@pytest.mark.parametrize("body", [None, [], {}, {"jobs": None}, {"jobs": {}}, "jobs"])
def test_a_batch_is_an_object_with_a_list_of_jobs(body: Any) -> None:
    assert refused(body).code == "invalid_input"


def test_a_batch_has_at_least_one_job_and_at_most_a_thousand() -> None:
    assert refused({"jobs": []}).code == "out_of_range"
    assert len(batch_requests({"jobs": jobs_of(1000)})) == 1000
    too_many = refused({"jobs": [None] * 1001})
    assert PROBLEMS[too_many.code].status == 413
    assert (too_many.code, too_many.detail) == (
        "batch_too_large", "at most 1000 jobs, got 1001",
    )  # fmt: skip


def test_every_finding_says_which_job_it_is_about() -> None:
    bad = {**BODY, "options": {"priority": "high"}}
    found = refused({"jobs": [BODY, bad, {}, {**BODY, "optoins": {}}], "job": 1}).findings
    assert {one["pointer"]: one["code"] for one in found} == {
        "/jobs/1/options/priority": "out_of_range",
        "/jobs/2": "invalid_input",
        "/jobs/3/optoins": "unknown_field",
        "/job": "unknown_field",
    }


def test_deltas_are_recorded_in_a_batch_only_for_jobs_that_say_so() -> None:
    asked = batch_requests({"jobs": [BODY, {**BODY, "options": {"stream": True}}]})
    assert [one.options.stream for one in asked] == [False, True]


async def test_a_batchs_body_has_a_bound_of_its_own(standin: StandIn) -> None:
    headers = {**standin.seat("submit").headers, "Content-Type": "application/json"}
    body = b'{"jobs": []}'.ljust(BODIES * MAX_BODY)
    whole = await standin.client.post("/v1/batches", content=body, headers=headers)
    assert whole.json()["code"] == "out_of_range"
    more = await standin.client.post("/v1/batches", content=body + b" ", headers=headers)
    assert (more.status_code, more.json()["code"]) == (413, "body_too_large")


async def test_a_batch_needs_the_scope_to_submit(standin: StandIn) -> None:
    headers = standin.seat("read").headers
    answer = await standin.client.post("/v1/batches", json={"jobs": []}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")


async def post(
    live: Live, seat: Seat, jobs: list[dict[str, Any]], **headers: str
) -> httpx2.Response:
    return await live.client.post(
        "/v1/batches", json={"jobs": jobs}, headers={**seat.headers, **headers}
    )


async def listed(live: Live, seat: Seat, batch: str, **query: Any) -> list[Any]:
    """All of its jobs, page by page."""
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await get(live, "/v1/jobs", seat, batch=batch, **query, **cursor)
        page = body_of(live, answer, "JobPage")
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


@pytest.mark.integration
async def test_a_thousand_jobs_are_accepted_in_one_go(live: Live) -> None:
    seat = await live.seat("submit", "read")
    begun = time.perf_counter()
    answer = await post(live, seat, jobs_of(1000))
    took_s = time.perf_counter() - begun
    made = body_of(live, answer, "Batch", 202)
    assert took_s < 60  # 0.3 s on a machine that does nothing else
    assert made["total"] == 1000
    assert made["counts"] == {**dict.fromkeys(STATES, 0), "queued": 1000}
    assert made["cost_usd"] == 0
    assert answer.headers["location"] == f"/v1/batches/{made['id']}"
    seen = body_of(live, await get(live, answer.headers["location"], seat), "Batch")
    assert seen == made
    jobs = await listed(live, seat, made["id"], limit=200)
    assert [job["metadata"]["n"] for job in jobs] == [str(n) for n in range(999, -1, -1)]
    assert {job["batch"] for job in jobs} == {made["id"]}
    assert not any(job["options"]["stream"] for job in jobs)


@pytest.mark.integration
async def test_one_bad_job_of_many_and_none_is_accepted(live: Live) -> None:
    seat = await live.seat("submit", "read")
    jobs = jobs_of(300)
    jobs[17] = {**BODY, "inputs": {"text": 5}}
    jobs[200] = {"chain": "nothing"}
    jobs[201] = {"tool": "nothing"}
    jobs[202] = {"chain": {"name": "x", "steps": []}}
    step = {"name": "a", "llm": {"model": "opena1/gpt", "prompt": "x"}}
    jobs[203] = {"chain": {"name": "x", "steps": [step]}}
    answer = await post(live, seat, jobs, **{"Idempotency-Key": "all"})
    assert code_of(live, answer, 422) == "invalid_input"
    told = {one["pointer"]: one["code"] for one in answer.json()["errors"]}
    assert told == {
        "/jobs/17/inputs/text": "invalid_input",
        "/jobs/200/chain": "unknown_chain",
        "/jobs/201/tool": "unknown_tool",
        "/jobs/202/chain/steps": "out_of_range",
        "/jobs/203/chain": "unknown_provider",
    }
    assert "jobs.17.inputs.text" in answer.json()["detail"]
    assert (await get(live, "/v1/jobs", seat)).json()["data"] == []
    again = await post(live, seat, jobs_of(2), **{"Idempotency-Key": "all"})
    assert again.status_code == 202  # a refused batch keeps no key either
    assert "idempotent-replayed" not in again.headers


@pytest.mark.integration
async def test_a_failure_in_the_middle_of_writing_leaves_nothing(live: Live) -> None:
    seat = await live.seat("submit", "read")
    async with live.rt.ledger.connection() as connection:
        await connection.execute(
            "alter table jobs add constraint not_seven check (metadata->>'n' <> '7') "
            "not valid"
        )
    try:
        answer = await post(live, seat, jobs_of(10))
        assert answer.status_code == 500
    finally:
        async with live.rt.ledger.connection() as connection:
            await connection.execute("alter table jobs drop constraint not_seven")
    assert (await get(live, "/v1/jobs", seat)).json()["data"] == []


@pytest.mark.integration
async def test_one_key_covers_the_whole_batch(live: Live) -> None:
    seat = await live.seat("submit", "read")
    key = {"Idempotency-Key": "whole"}
    answers = await asyncio.gather(
        *(post(live, seat, jobs_of(3), **key) for _ in range(20))
    )
    made = [body_of(live, answer, "Batch", 202) for answer in answers]
    assert len({one["id"] for one in made}) == 1
    replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
    assert sorted(replayed, key=str) == [None] + ["true"] * 19
    assert len((await get(live, "/v1/jobs", seat)).json()["data"]) == 3
    other = await post(live, seat, jobs_of(2), **key)
    assert code_of(live, other, 422) == "idempotency_mismatch"
    single = await live.client.post(
        "/v1/jobs", json=BODY, headers={**seat.headers, **key}
    )
    assert code_of(live, single, 422) == "idempotency_mismatch"
    for job in (await get(live, "/v1/jobs", seat)).json()["data"]:
        await live.succeed(UUID(job["id"]))
    ended = await post(live, seat, jobs_of(3), **key)
    assert body_of(live, ended, "Batch", 200)["counts"]["succeeded"] == 3


@pytest.mark.integration
async def test_a_batch_counts_its_jobs_by_state_and_adds_up_their_cost(
    live: Live,
) -> None:
    seat = await live.seat("submit", "read")
    batch = (await post(live, seat, jobs_of(4))).json()["id"]
    first, second, third, _ = [job["id"] for job in await listed(live, seat, batch)]
    await live.succeed(UUID(first))
    await live.fail(UUID(second))
    await live.client.post(f"/v1/jobs/{third}/cancel", headers=seat.headers)
    async with live.rt.ledger.connection() as connection:
        await connection.execute(
            "insert into attempts (job_id, path, n, id, run, fence, worker, state, "
            "model, simulated, cost) "
            "select id, 'draft', 1, $2, 0, 1, $2, 'succeeded', 'openai/m', true, 1500 "
            "from jobs where batch = $1 and state <> 'active'",
            UUID(batch), clock.uuid7(),
        )  # fmt: skip
    seen = body_of(live, await get(live, f"/v1/batches/{batch}", seat), "Batch")
    assert seen["counts"] == {
        "queued": 1, "running": 0, "waiting": 0,
        "succeeded": 1, "failed": 1, "cancelled": 1,
    }  # fmt: skip
    assert seen["cost_usd"] == 0.0045
    failed = await listed(live, seat, batch, state="failed")
    assert [job["id"] for job in failed] == [second]


@pytest.mark.integration
async def test_a_batch_over_the_tenants_cap_is_refused_whole(live: Live) -> None:
    seat = await live.seat("submit", "read")
    cap = live.rt.settings.gateway.max_queued_per_tenant
    async with live.rt.ledger.connection() as connection:
        await connection.execute(
            "insert into tenant_load values ($1, $2)", seat.tenant, cap - 4
        )
    answer = await post(live, seat, jobs_of(5))
    assert code_of(live, answer, 429) == "tenant_queue_full"
    assert (await post(live, seat, jobs_of(4))).status_code == 202


@pytest.mark.integration
async def test_another_tenants_batch_is_as_unknown_as_none(live: Live) -> None:
    owner, stranger = await live.seat("submit"), await live.seat("read")
    batch = (await post(live, owner, jobs_of(1))).json()["id"]
    for path in (batch, clock.uuid7(), "1", "%00"):
        answer = await get(live, f"/v1/batches/{path}", stranger)
        assert code_of(live, answer, 404) == "not_found"
    assert await listed(live, stranger, batch) == []


@pytest.mark.integration
async def test_a_batch_filter_that_is_no_id_is_named(live: Live) -> None:
    answer = await get(live, "/v1/jobs", await live.seat("read"), batch="mine")
    assert code_of(live, answer, 422) == "invalid_input"
    assert answer.json()["errors"][0]["pointer"] == "/query/batch"


@pytest.mark.integration
async def test_a_batch_that_fills_its_body_stops_nobody_else(live: Live) -> None:
    """Decoding happens beside the loop: others are served meanwhile."""
    seat = await live.seat("submit")
    body = json.dumps({"jobs": [{"chain": "x", "inputs": {"n": [1] * 300_000}}]})
    assert MAX_BODY < len(body) < BODIES * MAX_BODY
    posting = asyncio.ensure_future(
        live.client.post("/v1/batches", content=body, headers={
            **seat.headers, "Content-Type": "application/json",
        })
    )  # fmt: skip
    served = 0
    while not posting.done():
        assert (await live.client.get("/healthz")).status_code == 200
        served += 1
    assert code_of(live, posting.result(), 422) == "unknown_chain"
    assert served > 2


async def test_more_values_than_are_decoded_are_too_many(standin: StandIn) -> None:
    headers = {**standin.seat("submit").headers, "Content-Type": "application/json"}
    body = b'{"jobs": [' + b"[]," * 300_000 + b"1]}"
    assert len(body) < BODIES * MAX_BODY
    answer = await standin.client.post("/v1/batches", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert "values" in answer.json()["detail"]
