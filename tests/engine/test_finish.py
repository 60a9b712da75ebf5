"""Row 7 and 10: a result is committed, the chain asked once, and only then told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from llmgine_workers.engine import next_up
from llmgine_workers.engine.outcome import Dead, Done, Skip
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.events import facts
from llmgine_workers.ledger import connection, jobs, release, steps
from llmgine_workers.ledger.connection import Ledger, LedgerDown
from tests.engine.line import Line, chain, key, llm, parallel, until
from tests.engine.stand_ins import answer, failing

pytestmark = pytest.mark.integration


class Forgetful(Ledger):
    """A ledger that commits, and then loses its answer, so often."""

    def __init__(self, ledger: Ledger, times: int) -> None:
        super().__init__(ledger.url, ledger.schema, connections=4)
        self.times = times

    @asynccontextmanager
    async def transaction(self) -> Any:
        """Commit, then say that nobody knows."""
        async with super().transaction() as found:
            yield found
        if self.times:
            self.times -= 1
            raise LedgerDown("the answer was lost")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat what the ledger did not answer without a pause."""
    monkeypatch.setattr(connection, "FIRST_PAUSE_S", 0.0)


@pytest.mark.usefixtures("at_once")
async def test_a_commit_whose_answer_was_lost_is_not_done_again(line: Line) -> None:
    ledger = Forgetful(line.ledger, 0)
    rt = await line.worker(ledger=ledger)
    job = await line.submit(chain(llm("draft"), llm("final")))

    async def lose_the_next() -> Any:
        ledger.times = 2
        return answer()

    line.provider.will(lose_the_next)
    assert await run_step(rt, job, "draft") == Done()

    assert ledger.times == 0
    assert len(line.provider.calls) == 1
    assert await line.states(job) == {"draft": "succeeded", "final": "queued"}
    assert await run_step(rt, job, "final") == Done()
    assert (await line.place.job_row(job))["state"] == "succeeded"
    await ledger.close()


@pytest.mark.usefixtures("at_once")
async def test_a_claim_whose_answer_was_lost_is_still_one_call(line: Line) -> None:
    ledger = Forgetful(line.ledger, 3)
    rt = await line.worker(ledger=ledger)
    job = await line.submit(chain(llm("draft")))
    assert await run_step(rt, job, "draft") == Done()
    assert len(await line.place.attempts(key(job))) == 1
    await ledger.close()


async def test_a_wide_jobs_finishes_are_gathered(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = 60
    rt = await line.worker(slots=width)
    wide = parallel("all", *(llm(f"s{n}") for n in range(width)))
    job = await line.submit(chain(wide))
    locks = 0
    lock = jobs.lock_all

    async def counted(*args: Any) -> Any:
        nonlocal locks
        locks += 1
        return await lock(*args)

    monkeypatch.setattr(jobs, "lock_all", counted)
    line.provider.hold()
    running = [
        asyncio.create_task(run_step(rt, job, f"all.s{n}.s{n}")) for n in range(width)
    ]
    await until(lambda: len(line.provider.calls) == width, "all calls are open")
    line.provider.let_go()

    assert await asyncio.gather(*running) == [Done()] * width
    assert locks < width / 3
    assert (await line.place.job_row(job))["state"] == "succeeded"
    assert len(line.ear.heard(facts.StepFinished)) == width


async def test_finishes_of_unknown_chains_do_not_lock_each_other_up(line: Line) -> None:
    """More of them than the process has connections, each reading its chain."""
    ledger = Ledger(line.ledger.url, line.ledger.schema, connections=2)
    rt = await line.worker(slots=12, ledger=ledger)
    submitted = [await line.submit(chain(llm("draft"))) for _ in range(12)]
    line.provider.hold()
    running = [asyncio.create_task(run_step(rt, job, "draft")) for job in submitted]
    await until(lambda: len(line.provider.calls) == 12, "all calls are open")
    line.provider.let_go()
    async with asyncio.timeout(4):  # less than what ends an idle transaction
        assert await asyncio.gather(*running) == [Done()] * 12
    await ledger.close()


async def test_a_plan_that_fails_keeps_the_result_and_fails_the_job(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(
        chain(llm("draft"), llm("final", "{{ steps.draft.output.missing }}"))
    )

    assert await run_step(rt, job, "draft") == Done()

    assert await line.states(job) == {"draft": "succeeded"}
    assert '"fine"' in (await line.output(job, "draft") or "")
    assert (await line.place.job_row(job))["state"] == "failed"
    (letter,) = await line.place.letters(job)
    assert letter["error"]["code"] == "template_failed"
    assert letter["step"] == "final"
    assert "draft.output.missing" in letter["error"]["message"]


async def test_a_bug_in_planning_keeps_the_result_too(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    rt = await line.worker()
    job = await line.submit(chain(llm("draft"), llm("final")))
    monkeypatch.setattr(next_up, "plan", broken)
    assert await run_step(rt, job, "draft") == Done()
    assert await line.states(job) == {"draft": "succeeded"}
    (letter,) = await line.place.letters(job)
    assert letter["error"]["message"] == "internal error: ZeroDivisionError"
    assert len(line.provider.calls) == 1


def refusing_outputs(error: Exception) -> Callable[..., Any]:
    settle = steps.settle

    async def refuse(connection: Any, ends: Any) -> list[bool]:
        if any(one.output is not None for one, _ in ends):
            raise error
        return await settle(connection, ends)

    return refuse


@pytest.mark.parametrize(
    "error", [asyncpg.DataError("no such character"), ZeroDivisionError()]
)
async def test_a_result_that_cannot_be_stored_is_a_failed_step_and_billed(
    line: Line, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft"), llm("final")))
    monkeypatch.setattr(steps, "settle", refusing_outputs(error))
    await run_step(rt, job, "draft")
    assert await line.states(job) == {"draft": "failed"}
    (attempt,) = await line.place.attempts(key(job))
    assert attempt["cost"] == 140
    (letter,) = await line.place.letters(job)
    assert letter["error"]["code"] == "too_large"
    assert len(line.provider.calls) == 1


async def test_a_result_that_cannot_be_stored_has_its_fallback(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft", fallback="by hand"), llm("final")))
    with monkeypatch.context() as patched:
        patched.setattr(steps, "settle", refusing_outputs(asyncpg.DataError("no")))
        await run_step(rt, job, "draft")
    assert await line.states(job) == {"draft": "failed", "final": "queued"}
    assert await run_step(rt, job, "final") == Done()
    assert (await line.place.job_row(job))["state"] == "succeeded"


async def test_a_job_that_cannot_go_on_at_all_still_ends(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise asyncpg.DataError("nothing fits")

    rt = await line.worker()
    job = await line.submit(chain(llm("draft", fallback="by hand"), llm("final")))
    monkeypatch.setattr(jobs, "insert_steps", broken)
    await run_step(rt, job, "draft")
    assert (await line.place.job_row(job))["state"] == "failed"
    assert len(await line.place.letters(job)) == 1
    assert len(line.provider.calls) == 1


async def open_calls(
    line: Line, *names: str, **more: Any
) -> tuple[UUID, dict[str, asyncio.Task[Any]]]:
    """A job whose parallel steps are in their calls, each in a worker of its own."""
    wide = chain(parallel("all", *(llm(name, **more) for name in names)))
    job = await line.submit(wide)
    line.provider.hold()
    running = {}
    for name in names:
        rt, path = await line.worker(), f"all.{name}.{name}"
        line.listening(rt)
        running[path] = asyncio.create_task(run_step(rt, job, path))
    await until(lambda: len(line.provider.open) == len(names), "all calls are open")
    return job, running


async def test_branches_that_fail_together_make_one_letter_that_names_both(
    line: Line,
) -> None:
    job, running = await open_calls(line, "pro", "con")
    async with line.ledger.transaction() as held:
        await jobs.lock(held, job)  # both fail before either can end the job
        for path in running:
            line.provider.end(path, failing("provider_rejected"))
        await until(lambda: waiting_for(line, job), "both wait for the job")
    outcomes = await asyncio.gather(*running.values())

    assert all(isinstance(outcome, Dead) for outcome in outcomes)
    assert set((await line.states(job)).values()) == {"failed"}
    (letter,) = await line.place.letters(job)
    (other,) = running.keys() - {letter["step"]}
    assert other in letter["error"]["message"]


async def waiting_for(line: Line, job: UUID) -> bool:
    """Whether two transactions wait for the lock of that job."""
    rows = await line.place.rows(
        "select count(*) as n from pg_locks where not granted "
        "and locktype in ('tuple', 'transactionid')"
    )
    return bool(rows[0]["n"] >= 2)


async def test_a_failing_job_tells_its_other_calls_to_stop(line: Line) -> None:
    job, running = await open_calls(line, "a", "b")
    line.provider.end("all.b.b", failing("provider_rejected"))
    async with asyncio.timeout(5):  # through Redis: there is no beat here
        outcomes = await asyncio.gather(*running.values())
    assert isinstance(outcomes[0], Done)
    assert isinstance(outcomes[1], Dead)
    assert await line.states(job) == {"all.a.a": "cancelled", "all.b.b": "failed"}
    assert (await line.place.job_row(job))["state"] == "failed"
    (letter,) = await line.place.letters(job)
    assert letter["step"] == "all.b.b"
    (attempt,) = await line.place.attempts(key(job, "all.a.a"))
    assert attempt["state"] == "cancelled"
    assert attempt["cost"] > 0, "what was used is billed, as estimated"


async def test_an_answer_that_comes_while_its_job_fails_is_kept(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(parallel("all", llm("a"), llm("b"))))
    line.provider.hold()
    running = asyncio.create_task(run_step(rt, job, "all.a.a"))
    await until(lambda: line.provider.open, "the call is open")
    await line.place.end(job, "failed", failing("provider_rejected").failure)
    line.provider.let_go()
    assert await running == Done()
    assert await line.states(job) == {"all.a.a": "succeeded", "all.b.b": "cancelled"}
    assert await line.output(job, "all.a.a") is not None
    assert len(await line.place.letters(job)) == 1


async def test_a_cancelled_job_wants_no_answers(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft"), llm("final")))
    line.provider.hold()
    running = asyncio.create_task(run_step(rt, job, "draft"))
    await until(lambda: line.provider.open, "the call is open")
    await line.place.end(job, "cancelled", None)
    line.provider.let_go()
    assert await running == Done()
    assert await line.states(job) == {"draft": "cancelled"}
    assert (await line.place.job_row(job))["state"] == "cancelled"
    assert (await line.place.attempts(key(job)))[0]["cost"] == 140
    assert await line.place.letters(job) == []


async def test_a_zombies_answer_is_billed_and_dropped(line: Line) -> None:
    first, second = await line.worker(), await line.worker()
    job = await line.submit(chain(llm("draft")))
    line.provider.hold()
    zombie = asyncio.create_task(run_step(first, job, "draft"))
    await until(lambda: line.provider.open, "the call is open")
    await line.place.die(first.worker)
    await line.place.take_back(first.worker)
    (_, call) = line.provider.open.pop()
    owner = asyncio.create_task(run_step(second, job, "draft"))
    await until(lambda: line.provider.open, "the second call is open")

    call.set_result(answer("of the zombie"))
    assert isinstance(await zombie, Skip)
    assert await line.states(job) == {"draft": "running"}
    line.provider.let_go()
    assert await owner == Done()
    assert await line.output(job) == '"fine"'
    old, new = await line.place.attempts(key(job))
    assert (old["state"], old["cost"]) == ("ambiguous", 140)
    assert (new["state"], new["cost"]) == ("succeeded", 140)


async def test_next_steps_are_hinted_at_once_while_the_pool_is_not_backlogged(
    line: Line,
) -> None:
    rt = await line.worker()
    await line.place.rows("delete from pools where pool = 'openai'")
    job = await line.submit(chain(llm("draft"), llm("middle"), llm("final")))
    await run_step(rt, job, "draft")
    assert (await line.place.step_row(key(job, "middle")))["released_at"] is None

    await release.tick(line.ledger, "openai", 2000, 2000)
    await line.place.rows("update pools set backlogged = false, credit = 100")
    await rt.pools.refresh()
    await run_step(rt, job, "middle")
    assert (await line.place.step_row(key(job, "final")))["released_at"] is not None
