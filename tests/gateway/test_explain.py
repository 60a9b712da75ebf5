"""Why a job is where it is, and what its pool does: only what is known is said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from gateway import explaining
from gateway.pools import Gate
from llmgine_workers import clock
from llmgine_workers.ephemeral.breaker_store import BreakerStore
from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.ephemeral.pauses import Pauses
from llmgine_workers.ledger import attempts, failover, release, steps, workers
from llmgine_workers.ledger.attempts import Opening
from llmgine_workers.ledger.overview import PoolSeen
from llmgine_workers.ledger.records import StepKey
from llmgine_workers.ledger.views import OpenStep
from tests.gateway.conftest import Live, Seat
from tests.gateway.test_routes import body_of, code_of, get

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=90)
OPEN = Gate("open")
STEP = OpenStep(
    path="draft", pool="openai", model="openai/gpt-5-mini", why="first choice",
    state="queued", ending=None, calls=0, reason=None, detail=None,
    is_released=False, until=None, since=NOW, others=0,
)  # fmt: skip
SEEN = PoolSeen(
    pool="openai", workers=2, slots=400, credit=10, backlogged=False, queued=1,
    running=0, waiting=0, ticked_at=NOW, counted_at=NOW, at=NOW,
)  # fmt: skip
HEAD = "Step draft is queued for the pool openai, ready since 2026-11-20T12:00:00.000Z: "


@pytest.mark.parametrize(
    ("step", "seen", "gate", "why"),
    [
        (STEP, None, OPEN, "no scheduler has looked at this pool yet"),
        (STEP, replace(SEEN, at=NOW + timedelta(seconds=42)), OPEN,
         "no scheduler has looked at this pool for 42 s"),
        (STEP, replace(SEEN, workers=0), OPEN, "no live worker serves it"),
        (STEP, replace(SEEN, paused_at=NOW, paused_reason="the bill"), OPEN,
         "an operator paused the pool at 2026-11-20T12:00:00.000Z (the bill); "
         "`llmgine pools resume openai` lets it go on"),
        (STEP, SEEN, Gate("provider_pause", LATER),
         "its provider asked for a pause, and its gate is closed until "
         "2026-11-20T12:01:30.000Z"),
        (STEP, SEEN, Gate("breaker", LATER),
         "its provider failed repeatedly, and its gate is closed until "
         "2026-11-20T12:01:30.000Z"),
        (STEP, SEEN, Gate("breaker"),
         "its provider failed repeatedly, and its gate is closed while one probe is "
         "made"),
        (STEP, SEEN, OPEN, "the scheduler is about to release it"),
        (STEP, replace(SEEN, backlogged=True), OPEN,
         "steps of a higher priority, other tenants in their turn, or older jobs "
         "go first (not counted)"),
        (replace(STEP, is_released=True), SEEN, OPEN,
         "its workers were told of it and take it in turn"),
        (replace(STEP, is_released=True), SEEN, Gate("unknown"),
         "its workers were told of it and take it in turn; whether its gate is open is "
         "not known while Redis is away"),
    ],
)  # fmt: skip
def test_a_queued_step_says_the_first_thing_that_holds_it_up(
    step: OpenStep, seen: PoolSeen | None, gate: Gate, why: str
) -> None:
    assert explaining.queued(step, seen, gate) == f"{HEAD}{why}."


FROM_UNTIL = (
    "Step draft waits from 2026-11-20T12:00:00.000Z until 2026-11-20T12:01:30.000Z"
)


@pytest.mark.parametrize(
    ("reason", "detail", "told"),
    [
        ("limit", "openai/* 100000 tokens/1m is used up",
         "openai/* 100000 tokens/1m is used up; it goes sooner if running calls use less "
         "than they reserved, or if the limit is raised"),
        ("budget", "budget * $50 per 1d of acme: $49.9 of it are spent or reserved",
         "budget * $50 per 1d of acme: $49.9 of it are spent or reserved; it goes sooner "
         "if running calls cost less than they reserved, or if the amount is raised"),
        ("breaker", "openai/gpt-5-mini failed repeatedly",
         "openai/gpt-5-mini failed repeatedly; a probe that is answered lets it go on, "
         "and no other call is made before"),
        ("provider_pause", "openai asked for a pause",
         "openai asked for a pause; only the provider could have named another time"),
        ("retry", "provider_overloaded: busy",
         "provider_overloaded: busy; then it is tried again by itself"),
        ("paused", "the pool openai was paused by an operator: the bill",
         "the pool openai was paused by an operator: the bill; `llmgine pools resume "
         "openai` lets it go on at once"),
        ("event", "the event approved is awaited",
         "the event approved is awaited; the event lets it go on at once"),
        ("timer", "the chain waits here",
         "the chain waits here; nothing but the end of the job ends it sooner"),
    ],
)  # fmt: skip
def test_every_reason_to_wait_has_a_sentence_with_what_would_change_it(
    reason: str, detail: str, told: str
) -> None:
    step = replace(STEP, state="waiting", reason=reason, detail=detail, until=LATER)
    assert explaining.waiting(step) == f"{FROM_UNTIL} ({reason}): {told}."


async def explained(live: Live, seat: Seat, job: UUID) -> dict[str, Any]:
    answer = await get(live, f"/v1/jobs/{job}/explain", seat)
    return dict(body_of(live, answer, "Explanation"))


async def sentence(live: Live, seat: Seat, job: UUID) -> str:
    return str((await explained(live, seat, job))["sentence"])


@pytest.fixture
async def worker(live: Live) -> AsyncIterator[UUID]:
    """A live worker, and a scheduler that has just looked."""
    worker = clock.uuid7()
    await workers.register(live.rt.ledger, worker, "openai", 10, "host:1")
    await release.tick(live.rt.ledger, "openai", 2000, 0)
    await release.count_load(live.rt.ledger)
    yield worker
    await workers.stop(live.rt.ledger, worker)


@pytest.mark.integration
async def test_a_job_is_explained_from_its_queue_to_its_end(
    live: Live, worker: UUID
) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    ledger, key = live.rt.ledger, StepKey(job, "draft")
    found = await explained(live, seat, job)
    assert found["waiting"] is None
    assert found["sentence"].startswith("Step draft is queued for the pool openai")

    await steps.wait(ledger, key, 60, "limit", "openai/* 600 requests/1m are used up")
    found = await explained(live, seat, job)
    assert found["waiting"]["reason"] == "limit"
    since, until = found["waiting"]["since"], found["waiting"]["until"]
    assert found["sentence"] == (
        f"Step draft waits from {since} until {until} (limit): "
        "openai/* 600 requests/1m are used up; it goes sooner if running calls use less "
        "than they reserved, or if the limit is raised."
    )

    async with ledger.connection() as connection:
        await connection.execute(
            "update steps set state = 'queued', wake_at = null where job_id = $1", job
        )
    (hinted,) = await steps.read(ledger, [key])
    assert hinted
    wanted = Opening(hinted, worker, clock.uuid7(), simulated=True, reserved=None)
    assert all(await attempts.claim(ledger, [wanted]))
    running = await sentence(live, seat, job)
    assert running.startswith("Step draft has been running in the pool openai since 2")
    assert running.endswith(", in call 1.")

    await live.client.post(f"/v1/jobs/{job}/cancel", headers=seat.headers)
    stopping = await sentence(live, seat, job)
    assert stopping == "The job is to end as cancelled; step draft is being stopped."


@pytest.mark.integration
async def test_a_step_that_failed_over_says_why_it_is_where_it_is(live: Live) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    (hinted,) = await steps.read(live.rt.ledger, [StepKey(job, "draft")])
    assert hinted
    other, why = "anthropic/claude-sonnet-4-5", "instead of openai/gpt-5-mini: breaker"
    assert await failover.before_call(
        live.rt.ledger, hinted.key, hinted.model or "", failover.Move(other, why, False),
        for_good=False,
    )  # fmt: skip
    told = await sentence(live, seat, job)
    assert told.startswith("Step draft is queued for the pool anthropic")
    assert told.endswith(f" Its model is {other}, {why}.")


@pytest.mark.integration
async def test_ends_are_explained_with_their_time_and_reason(live: Live) -> None:
    seat = await live.seat("submit", "read")
    done, failed, stopped = [await live.submitted(seat) for _ in range(3)]
    await live.succeed(done)
    await live.fail(failed)
    await live.client.post(f"/v1/jobs/{stopped}/cancel", headers=seat.headers)
    assert (await sentence(live, seat, done)).startswith("The job succeeded at 2")
    letter = (await get(live, f"/v1/jobs/{failed}", seat)).json()["dead_letter"]
    told = await sentence(live, seat, failed)
    assert told.startswith("The job failed at step draft at 2")
    assert told.endswith(f" (dead letter {letter}): tool_failed: no")
    assert (await sentence(live, seat, stopped)).startswith("The job was cancelled at 2")


@pytest.mark.integration
async def test_steps_beside_the_first_are_mentioned(live: Live) -> None:
    seat = await live.seat("submit", "read")
    branch = {"llm": {"model": "openai/gpt-5-mini", "prompt": "x"}}
    sides = {name: [{"name": name, **branch}] for name in ("a", "b", "c")}
    chain = {"name": "sides", "steps": [{"name": "all", "parallel": sides}]}
    answer = await live.client.post(
        "/v1/jobs", json={"chain": chain}, headers=seat.headers
    )
    job = UUID(answer.json()["id"])
    told = await sentence(live, seat, job)
    assert told.startswith("Step all.")
    assert told.endswith(" 2 other steps are not finished either.")


@pytest.mark.integration
async def test_nobody_explains_anothers_job(live: Live) -> None:
    owner, stranger = await live.seat("submit"), await live.seat("read")
    job = await live.submitted(owner)
    for one in (job, clock.uuid7()):
        answer = await get(live, f"/v1/jobs/{one}/explain", stranger)
        assert code_of(live, answer, 404) == "not_found"
    assert code_of(live, await get(live, f"/v1/jobs/{job}/explain", owner), 403)


async def pool_of(live: Live, name: str) -> dict[str, Any]:
    seat = await live.seat("operate")
    page = body_of(live, await get(live, "/v1/pools", seat), "PoolPage")
    (found,) = [one for one in page["data"] if one["pool"] == name]
    return dict(found)


@pytest.mark.integration
async def test_pools_are_shown_with_workers_counts_and_gate(
    live: Live, worker: UUID
) -> None:
    seat = await live.seat("submit", "read")
    await live.submitted(seat)
    await release.tick(live.rt.ledger, "openai", 2000, 0)
    await release.count_load(live.rt.ledger)
    shown = await pool_of(live, "openai")
    assert (shown["workers"], shown["slots"], shown["backlogged"]) == (1, 10, True)
    async with live.rt.ledger.connection() as connection:
        queued = await connection.fetchval(
            "select count(*) from steps where state = 'queued' and pool = 'openai'"
        )
    assert shown["queued"] == queued > 0
    assert shown["gate"] == {"state": "open", "until": None}
    assert shown["counted_at"] <= clock.rfc3339(clock.now())


@pytest.mark.integration
async def test_a_pool_that_no_scheduler_has_seen_is_listed_as_that(live: Live) -> None:
    shown = await pool_of(live, "tools")
    assert (shown["workers"], shown["seen_at"], shown["counted_at"]) == (0, None, None)
    assert shown["gate"]["state"] == "open"


@pytest.mark.integration
async def test_a_closed_gate_is_shown_with_its_time(live: Live) -> None:
    pauses, breakers = Pauses(live.rt.ephemeral), BreakerStore(live.rt.ephemeral)
    await breakers.open("openai", "gpt-5-mini", None, 60)
    try:
        shown = await pool_of(live, "openai")
        assert shown["gate"]["state"] == "breaker"
        assert shown["gate"]["until"] > clock.rfc3339(clock.now())
        await pauses.pause("openai", 0.3)
        assert (await pool_of(live, "openai"))["gate"]["state"] == "provider_pause"
    finally:
        for key in (("pause", "openai"), ("breaker", "openai/gpt-5-mini")):
            await live.rt.ephemeral.command("DEL", live.rt.ephemeral.key(*key))


@pytest.mark.integration
async def test_without_redis_gates_are_unknown_and_pools_still_shown(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise EphemeralDown("no")

    monkeypatch.setattr(Pauses, "left_s", away)
    assert (await pool_of(live, "openai"))["gate"] == {"state": "unknown", "until": None}
    assert (await pool_of(live, "tools"))["gate"]["state"] == "open"


@pytest.mark.integration
async def test_pools_need_the_scope_of_an_operator(live: Live) -> None:
    answer = await get(live, "/v1/pools", await live.seat("read", "submit"))
    assert code_of(live, answer, 403) == "missing_scope"
