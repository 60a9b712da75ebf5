from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from llmgine_workers import clock, keys
from llmgine_workers.errors import Failure
from llmgine_workers.ledger import (
    api_keys,
    jobs,
    outcomes,
    shown,
    steps,
    submits,
    views,
)
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.ledger.records import NewJob, NewStep, StepKey
from llmgine_workers.ledger.views import Wanted

pytestmark = pytest.mark.integration

VERSION = "sha256:9f2c41d07a"


@pytest.fixture(scope="module")
async def ledger(postgres_url: str) -> AsyncIterator[Ledger]:
    ledger = Ledger(postgres_url, "views_test", connections=4)
    await migrate(ledger)
    yield ledger
    await ledger.close()


@pytest.fixture
def tenant() -> str:
    return f"tenant-{uuid4().hex[:8]}"


def step(path: str = "draft", kind: str = "llm", pool: str = "openai") -> NewStep:
    model = "openai/gpt-5-mini" if kind == "llm" else None
    return NewStep(
        path, kind, pool, '{"max_tokens": 800}', 300.0, 5, model, "first choice"
    )


async def submit(ledger: Ledger, tenant: str, *new: NewStep, **more: Any) -> UUID:
    job = NewJob(
        **{
            "id": clock.uuid7(), "tenant": tenant, "chain_version": VERSION,
            "chain_name": "summarize", "priority": 1, "stream": True,
            "simulated": False, "max_attempts": 5, "timeout_s": 600.0,
            "max_cost": 50_000, "metadata": {"order": "A-17"}, "steps_total": 2,
            "inputs": '{"text": "..."}', "steps": new or (step(),), **more,
        }
    )  # fmt: skip
    await submits.insert(ledger, submits.Submit(job, [False] * len(job.steps)))
    return job.id


async def run(ledger: Ledger, sql: str, *values: Any) -> None:
    async with ledger.connection() as connection:
        await connection.execute(sql, *values)


async def attempt(ledger: Ledger, job: UUID, n: int, **columns: Any) -> None:
    row = {
        "job_id": job, "path": "draft", "n": n, "id": clock.uuid7(), "run": 0,
        "fence": n, "worker": uuid4(), "model": "openai/gpt-5-mini",
        "simulated": False, **columns,
    }  # fmt: skip
    places = ", ".join(f"${i}" for i in range(1, len(row) + 1))
    names = ", ".join(row)
    sql = f"insert into attempts ({names}) values ({places})"  # noqa: S608 - constants
    await run(ledger, sql, *row.values())


async def set_state(ledger: Ledger, job: UUID, path: str, state: str) -> None:
    await run(
        ledger,
        "update steps set state = $3, wake_at = now(), started_at = case when $3 in "
        "('queued', 'waiting') then started_at else now() end "
        "where job_id = $1 and path = $2",
        job, path, state,
    )  # fmt: skip


async def look_at(ledger: Ledger, tenant: str, job: UUID) -> dict[str, Any]:
    found = await views.job(ledger, tenant, job)
    assert found is not None
    return found


async def test_a_new_job_is_shown_whole(ledger: Ledger, tenant: str) -> None:
    job = await submit(ledger, tenant, step(), step("count", "tool", "tools"))
    found = await look_at(ledger, tenant, job)
    created, deadline = found.pop("created_at"), found.pop("deadline_at")
    assert created.endswith("Z")
    assert deadline > created
    assert found == {
        "id": str(job), "tenant": tenant, "batch": None, "forked_from": None,
        "replays": 0, "dead_letter": None,
        "chain": {"name": "summarize", "version": VERSION},
        "metadata": {"order": "A-17"}, "simulated": False,
        "state": "queued", "waiting": None, "inputs": {"text": "..."}, "output": None,
        "error": None,
        "progress": {"total": 2, "queued": 2, "running": 0, "waiting": 0,
                     "succeeded": 0, "failed": 0, "skipped": 0, "cancelled": 0},
        "usage": {"calls": 0, "input_tokens": 0, "cached_input_tokens": 0,
                  "output_tokens": 0, "reasoning_tokens": 0},
        "cost_usd": 0, "possible_duplicate_usd": 0,
        "options": {"priority": "normal", "timeout_s": 600, "max_attempts": 5,
                    "max_cost_usd": 0.05, "stream": True, "webhook": None},
        "started_at": None, "finished_at": None,
        "links": {"self": f"/v1/jobs/{job}", "steps": f"/v1/jobs/{job}/steps",
                  "events": f"/v1/jobs/{job}/events"},
    }  # fmt: skip


async def test_another_tenant_and_an_unknown_id_see_nothing(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant)
    assert await views.job(ledger, "somebody", job) is None
    assert await views.job(ledger, tenant, clock.uuid7()) is None
    assert await views.job(ledger, tenant, uuid4()) is None
    assert await views.step(ledger, "somebody", job, "draft") is None
    assert (await views.steps(ledger, "somebody", job, limit=9, after=None)).data == []


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("queued", "queued"), "queued"),
        (("running", "queued"), "running"),
        (("succeeded", "queued"), "running"),
        (("waiting", "queued"), "queued"),
        (("waiting", "running"), "running"),
        (("waiting", "waiting"), "waiting"),
        (("succeeded", "waiting"), "waiting"),
    ],
)
async def test_the_state_of_a_job_is_derived_from_its_steps(
    ledger: Ledger, tenant: str, states: tuple[str, str], expected: str
) -> None:
    job = await submit(ledger, tenant, step("a"), step("b"))
    for path, state in zip("ab", states, strict=True):
        await set_state(ledger, job, path, state)
    found = await look_at(ledger, tenant, job)
    assert found["state"] == expected
    assert (found["waiting"] is not None) == (expected == "waiting")
    assert sum(found["progress"][state] for state in shown.STEP_STATES) == 2
    page = await views.jobs(ledger, tenant, Wanted(state=expected), limit=9, before=None)
    assert [one["id"] for one in page.data] == [str(job)]


async def test_a_replayed_job_runs_again_and_is_not_queued_again(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant)
    await run(ledger, "update jobs set run = 1 where id = $1", job)
    found = await look_at(ledger, tenant, job)
    assert (found["state"], found["replays"]) == ("running", 1)


async def test_a_waiting_job_says_why_and_until_when_its_first_step_waits(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant, step("late"), step("soon"))
    await steps.wait(ledger, StepKey(job, "late"), 500.0, "breaker", "openai is open")
    await steps.wait(ledger, StepKey(job, "soon"), 20.0, "limit", "600 requests/1m")
    waiting = (await look_at(ledger, tenant, job))["waiting"]
    assert waiting["reason"] == "limit"
    assert waiting["detail"] == "600 requests/1m"
    assert waiting["since"] < waiting["until"]
    one = await views.step(ledger, tenant, job, "late")
    assert one is not None
    assert one["waiting"]["reason"] == "breaker"


async def test_usage_and_cost_are_added_up_over_all_attempts(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant)
    await attempt(ledger, job, 1, state="failed", input_tokens=400, cost=211)
    await attempt(
        ledger, job, 2, state="succeeded", input_tokens=412, output_tokens=164,
        cached_input_tokens=3, reasoning_tokens=7, cost=523,
    )  # fmt: skip
    found = await look_at(ledger, tenant, job)
    assert found["usage"] == {
        "calls": 2, "input_tokens": 812, "cached_input_tokens": 3,
        "output_tokens": 164, "reasoning_tokens": 7,
    }  # fmt: skip
    assert found["cost_usd"] == 0.000734
    assert found["possible_duplicate_usd"] == 0


async def test_a_cost_that_nobody_knows_makes_the_sum_unknown(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant)
    await attempt(ledger, job, 1, state="succeeded", cost=211)
    await attempt(ledger, job, 2, state="started", cost=None)
    assert (await look_at(ledger, tenant, job))["cost_usd"] == 0.000211
    await attempt(ledger, job, 3, state="failed", cost=None)
    assert (await look_at(ledger, tenant, job))["cost_usd"] is None


async def test_what_may_have_been_paid_twice_is_told_apart_from_the_cost(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant)
    await attempt(ledger, job, 1, state="ambiguous", reserved=900)
    await attempt(ledger, job, 2, state="succeeded", reserved=900, cost=100)
    found = await look_at(ledger, tenant, job)
    assert (found["cost_usd"], found["possible_duplicate_usd"]) == (0.0001, 0.0009)
    await attempt(ledger, job, 3, state="ambiguous", reserved=None)
    assert (await look_at(ledger, tenant, job))["possible_duplicate_usd"] is None


async def test_tool_calls_are_no_model_calls(ledger: Ledger, tenant: str) -> None:
    job = await submit(ledger, tenant)
    await attempt(ledger, job, 1, state="succeeded", model=None, cost=0)
    await attempt(ledger, job, 2, state="ambiguous", model=None)
    found = await look_at(ledger, tenant, job)
    assert found["usage"]["calls"] == 0
    assert (found["cost_usd"], found["possible_duplicate_usd"]) == (0, 0)


async def test_a_succeeded_job_shows_its_output(ledger: Ledger, tenant: str) -> None:
    job = await submit(ledger, tenant)
    await set_state(ledger, job, "draft", "succeeded")
    async with ledger.transaction() as connection:
        await jobs.succeed(connection, {job: json.dumps("Prices rose ...")})
    found = await look_at(ledger, tenant, job)
    assert (found["state"], found["output"]) == ("succeeded", "Prices rose ...")
    assert found["finished_at"] >= found["started_at"]
    assert await views.has_ended(ledger, job)


async def test_a_failed_job_shows_its_error_and_its_open_letter(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant)
    failure = Failure("provider_overloaded", "529", step="draft", attempts=5)
    async with ledger.transaction() as connection:
        locked = await jobs.lock(connection, job)
        assert locked is not None
        letter = await jobs.decide_end(connection, locked, "failed", failure)
    found = await look_at(ledger, tenant, job)
    assert found["state"] == "failed"
    assert found["error"] == failure.as_dict()
    assert found["dead_letter"] == str(letter)
    assert found["progress"]["cancelled"] == 1
    told = (await outcomes.read(ledger, [job]))[job]
    assert (told.state, told.output, told.error) == ("failed", None, failure)
    assert (vars(told.usage), told.cost_usd) == (found["usage"], found["cost_usd"])


async def test_a_resolved_letter_is_not_the_jobs_any_more(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant)
    async with ledger.transaction() as connection:
        locked = await jobs.lock(connection, job)
        assert locked is not None
        await jobs.decide_end(connection, locked, "failed", Failure("tool_failed", "no"))
    await run(ledger, "update letters set state = 'resolved' where job_id = $1", job)
    assert (await look_at(ledger, tenant, job))["dead_letter"] is None


async def test_payloads_that_were_pruned_are_null(ledger: Ledger, tenant: str) -> None:
    job = await submit(ledger, tenant)
    await run(ledger, "delete from payloads where job_id = $1", job)
    assert (await look_at(ledger, tenant, job))["inputs"] is None
    one = await views.step(ledger, tenant, job, "draft")
    assert one is not None
    assert one["request"] is None


async def test_has_ended_is_true_of_what_does_not_exist(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant)
    assert not await views.has_ended(ledger, job)
    assert await views.has_ended(ledger, clock.uuid7())


async def test_one_step_shows_its_attempts_and_its_request(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant)
    error = Failure("stream_cut", "the stream broke off").as_dict()
    await attempt(ledger, job, 1, state="failed", cost=90, failure=error, status=200)
    await attempt(
        ledger, job, 2, state="succeeded", cost=211, input_tokens=412, output_tokens=80,
        status=200, request_id="req_8f", simulated=True, first_token_at=clock.now(),
    )  # fmt: skip
    await set_state(ledger, job, "draft", "succeeded")
    await run(
        ledger,
        "update steps set finish_reason = 'stop', fence = 2 where job_id = $1",
        job,
    )
    await run(
        ledger,
        "insert into payloads values ($1, 'draft', 'output', $2)",
        job, json.dumps({"output": {"a": 1}, "text": '{"a": 1}', "model": "gpt"}),
    )  # fmt: skip
    one = await views.step(ledger, tenant, job, "draft")
    assert one is not None
    attempts = one.pop("attempts")
    assert one == {
        "path": "draft", "kind": "llm", "pool": "openai", "state": "succeeded",
        "waiting": None, "fence": 2, "crashes": 0, "error": None, "output": {"a": 1},
        "text": '{"a": 1}', "finish_reason": "stop", "model": "openai/gpt-5-mini",
        "why": "first choice",
        "usage": {"calls": 2, "input_tokens": 412, "cached_input_tokens": 0,
                  "output_tokens": 80, "reasoning_tokens": 0},
        "cost_usd": 0.000301, "simulated": True, "request": {"max_tokens": 800},
    }  # fmt: skip
    assert [(a["n"], a["state"], a["cost_usd"]) for a in attempts] == [
        (1, "failed", 0.00009),
        (2, "succeeded", 0.000211),
    ]
    assert attempts[0]["error"] == error
    assert attempts[1]["request_id"] == "req_8f"
    assert attempts[1]["first_token_at"].endswith("Z")


async def test_steps_come_in_pages_without_attempts_and_requests(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant, *(step(f"s{n}") for n in range(5)))
    seen: list[str] = []
    after = None
    for size in (2, 2, 1):
        page = await views.steps(ledger, tenant, job, limit=2, after=after)
        assert len(page.data) == size
        assert not {"attempts", "request"} & page.data[0].keys()
        seen += [one["path"] for one in page.data]
        after = page.next_cursor
    assert after is None
    assert seen == [f"s{n}" for n in range(5)]


async def test_a_snapshot_is_the_job_and_its_finished_steps(
    ledger: Ledger, tenant: str
) -> None:
    job = await submit(ledger, tenant, step("a"), step("b"), step("c"))
    await set_state(ledger, job, "a", "succeeded")
    await set_state(ledger, job, "b", "running")
    taken = await views.snapshot(ledger, job)
    assert taken is not None
    assert taken["job"] == await look_at(ledger, tenant, job)
    assert [one["path"] for one in taken["steps"]] == ["a"]


async def test_jobs_come_newest_first_in_pages(ledger: Ledger, tenant: str) -> None:
    made = [await submit(ledger, tenant) for _ in range(5)]
    await submit(ledger, f"{tenant}-other")
    seen: list[str] = []
    before = None
    for size in (2, 2, 1):
        page = await views.jobs(ledger, tenant, Wanted(), limit=2, before=before)
        assert len(page.data) == size
        seen += [one["id"] for one in page.data]
        before = UUID(page.next_cursor) if page.next_cursor else None
    assert before is None
    # Ids made within one millisecond are in no order of their own.
    assert seen == [str(job) for job in sorted(made, reverse=True)]


async def test_jobs_can_be_asked_for_by_chain_metadata_and_time(
    ledger: Ledger, tenant: str
) -> None:
    mine = await submit(ledger, tenant, chain_name="translate", metadata={"order": "B-1"})
    await submit(ledger, tenant)
    an_hour = timedelta(hours=1)
    for wanted, count in [
        (Wanted(chain="translate"), 1),
        (Wanted(metadata={"order": "B-1"}), 1),
        (Wanted(metadata={"order": "B-1", "more": "x"}), 0),
        (Wanted(created_after=clock.now() - an_hour), 2),
        (Wanted(created_after=clock.now() + an_hour), 0),
        (Wanted(state="failed"), 0),
    ]:
        page = await views.jobs(ledger, tenant, wanted, limit=9, before=None)
        assert len(page.data) == count, wanted
        if count == 1:
            assert page.data[0]["id"] == str(mine)


async def test_a_page_of_jobs_ends_early_rather_than_be_huge(
    ledger: Ledger, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "PAGE_BYTES", 1000)
    for _ in range(3):
        await submit(ledger, tenant, inputs=json.dumps({"text": "x" * 600}))
    first = await views.jobs(ledger, tenant, Wanted(), limit=3, before=None)
    assert len(first.data) == 1
    assert first.next_cursor == first.data[0]["id"]
    rest = await views.jobs(
        ledger, tenant, Wanted(), limit=3, before=UUID(first.next_cursor)
    )
    assert len(rest.data) == 1
    assert rest.data[0]["id"] < first.data[0]["id"]


async def test_a_key_is_kept_found_listed_and_revoked(
    ledger: Ledger, tenant: str
) -> None:
    key = keys.new_key()
    await api_keys.insert(ledger, key.id, key.hash, tenant, ["submit", "read"])
    found = await api_keys.found(ledger, key.id)
    assert found is not None
    assert (found.tenant, found.scopes) == (tenant, frozenset({"submit", "read"}))
    assert (found.hash, found.revoked_at) == (key.hash, None)
    assert await api_keys.listed(ledger, tenant) == [found]
    assert found in await api_keys.listed(ledger)
    assert await api_keys.revoke(ledger, key.id)
    revoked = await api_keys.found(ledger, key.id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert await api_keys.revoke(ledger, key.id)
    assert await api_keys.found(ledger, key.id) == revoked


async def test_a_key_that_does_not_exist_is_neither_found_nor_revoked(
    ledger: Ledger,
) -> None:
    assert await api_keys.found(ledger, "0123456789ab") is None
    assert not await api_keys.revoke(ledger, "0123456789ab")


async def test_a_ledger_with_its_tables_can_accept_jobs(
    ledger: Ledger, new_database: Callable[[], str]
) -> None:
    assert await views.can_accept_jobs(ledger)
    empty = Ledger(new_database(), "views_test", connections=1)
    assert not await views.can_accept_jobs(empty)
    await empty.close()
