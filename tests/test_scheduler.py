"""Everything driven by time, run as the scheduler runs it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from llmgine_workers import clock, scheduler
from llmgine_workers.engine import upkeep
from llmgine_workers.engine.hints import Hints
from llmgine_workers.ledger import release, steps
from llmgine_workers.ledger.connection import Ledger, LedgerDown
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.prices import Prices
from llmgine_workers.runtime import Runtime
from tests.engine.line import Line, chain, key, llm, open_line, until
from tests.ledger.rows import REJECTED

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
async def migrated(postgres_url: str) -> AsyncIterator[Ledger]:
    """Apart: a scheduler does its duties for every job there is."""
    ledger = Ledger(postgres_url, "scheduler_test")
    await migrate(ledger)
    yield ledger
    await ledger.close()


@pytest.fixture
async def line(migrated: Ledger, redis_url: str) -> AsyncIterator[Line]:
    async with open_line(migrated, redis_url, Prices({})) as line:
        yield line


@asynccontextmanager
async def scheduling(rt: Runtime) -> AsyncIterator[None]:
    """A scheduler at work, with its hints on their way."""
    tasks = [asyncio.create_task(scheduler.run(rt)), asyncio.create_task(rt.hints.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def hinted(line: Line) -> Counter[str]:
    """How often each step was hinted at, by its task's id."""
    return Counter(m.id for m in line.broker.queues[f"{line.rt.prefix}.openai"])


def test_every_row_that_time_drives_is_a_duty(line: Line) -> None:
    every_s = {name: seconds for name, seconds, _ in scheduler.duties(line.rt)}
    assert every_s["release openai"] == every_s["release tools"] == 0.1
    assert {"lost hints openai", "lost hints anthropic", "lost hints tools"} <= set(
        every_s
    )
    assert max(every_s[n] for n in ("wake", "lost steps", "expire", "endings")) <= 1.0
    assert every_s["watch workers"] <= 3.0, "a rarer look is no observation"


async def test_what_is_held_waits_or_has_ended_is_seen_to(line: Line) -> None:
    fresh = await line.submit(chain(llm("draft")))
    waiting = await line.submit(chain(llm("draft")))
    await steps.wait(line.ledger, key(waiting), 0.0, "limit", "used up")
    expired = await line.submit(chain(llm("draft")), timeout_s=60.0)
    await line.place.age(61, expired)
    failed = await line.submit(chain(llm("draft")))
    taken = await line.place.end(failed, "failed", REJECTED)

    async with scheduling(line.rt):
        tasks = {str(clock.task_id(job, "draft", 0)) for job in (fresh, waiting)}
        await until(lambda: tasks <= set(hinted(line)), "both steps are hinted at")

        async def is_failed() -> bool:
            return bool((await line.place.job_row(expired))["state"] == "failed")

        await until(is_failed, "the expired job has failed")
        dead = f"{line.rt.prefix}.dead"
        await until(
            lambda: str(taken.letter) in {m.id for m in line.broker.queues[dead]},
            "its letter is mirrored",
        )
    assert await line.states(fresh) == await line.states(waiting) == {"draft": "queued"}


async def test_two_schedulers_hint_at_every_step_once(line: Line) -> None:
    other = replace(line.rt, hints=Hints(line.broker, line.ledger, line.rt.prefix))
    jobs = [await line.submit(chain(llm("draft"))) for _ in range(60)]
    async with scheduling(line.rt), scheduling(other):
        tasks = {str(clock.task_id(job, "draft", 0)) for job in jobs}
        await until(lambda: tasks <= set(hinted(line)), "all are hinted at")
        await line.rt.hints.drain()
        await other.hints.drain()
    assert set(hinted(line).values()) == {1}


async def runs(duty: scheduler.Duty) -> asyncio.Task[None]:
    return asyncio.create_task(_each(duty))


def _each(duty: scheduler.Duty) -> Coroutine[Any, Any, None]:
    return scheduler._each("a duty", 0.0, duty, scheduler.Rounds())


async def test_a_bug_in_a_duty_is_said_and_survived(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = 0

    async def broken() -> None:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError

    running = await runs(broken)
    await until(lambda: calls >= 3, "it is tried again and again")
    running.cancel()
    assert "a duty failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_a_store_that_is_away_is_said_once_and_tried_until_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    calls = 0

    async def away_at_first() -> None:
        nonlocal calls
        calls += 1
        if calls < 5:
            raise LedgerDown("the ledger does not answer")

    running = await runs(away_at_first)
    await until(lambda: calls >= 8, "it goes on")
    running.cancel()
    assert caplog.text.count("the ledger does not answer") == 1


async def test_the_scheduler_shows_what_there_is_to_do(line: Line) -> None:
    await line.submit(chain(llm("draft")))
    await release.tick(line.ledger, "openai", 2000, 0)
    await release.count_load(line.ledger)
    await upkeep.measure(line.rt)

    def shown(name: str, **labels: str) -> float | None:
        return line.rt.metrics.registry.get_sample_value(f"llmgine_{name}", labels)

    assert (shown("pool_steps", pool="openai", state="queued") or 0) >= 1
    assert (shown("pool_oldest_seconds", pool="openai") or 0) > 0
    assert shown("pool_workers", pool="openai") is not None
