"""Finishes of several jobs in one transaction: what is wrong with one harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from llmgine_workers.engine import finish
from llmgine_workers.engine.outcome import Done
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.ledger import connection, jobs
from llmgine_workers.ledger.records import Finish
from llmgine_workers.worker_runtime import WorkerRuntime
from tests.engine.line import Line, chain, key, llm, parallel, until
from tests.engine.stand_ins import answer
from tests.engine.test_finish import Forgetful
from tests.ledger.rows import PAID

pytestmark = pytest.mark.integration


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> list[set[UUID]]:
    """Which jobs each finish transaction has locked."""
    seen: list[set[UUID]] = []
    lock_all = jobs.lock_all

    async def watched(connection: Any, ids: Any) -> Any:
        wanted = list(ids)
        seen.append(set(wanted))
        return await lock_all(connection, wanted)

    monkeypatch.setattr(jobs, "lock_all", watched)
    return seen


async def claimed(
    line: Line, rt: WorkerRuntime, count: int, *steps: dict[str, Any]
) -> list[Finish]:
    """Jobs whose step `draft` is ours, and a good end for each."""
    made = []
    for _ in range(count):
        job = await line.submit(chain(*(steps or (llm("draft"),))))
        claim = await line.place.claimed(key(job), rt.worker)
        stored = '{"output": "fine", "text": "fine", "model": null}'
        made.append(Finish(claim, "succeeded", PAID, stored))
    return made


async def finished(rt: WorkerRuntime, ends: Sequence[Finish]) -> list[bool]:
    return list(await asyncio.gather(*(rt.finisher.finish(one) for one in ends)))


async def job_states(line: Line, ends: Sequence[Finish]) -> list[str]:
    rows = [await line.place.job_row(one.claim.key.job) for one in ends]
    return [row["state"] for row in rows]


async def test_jobs_that_end_at_once_are_committed_together(
    line: Line, locks: list[set[UUID]]
) -> None:
    rt = await line.worker()
    ends = await claimed(line, rt, 8)
    locks.clear()
    assert await finished(rt, ends) == [True] * 8
    assert len(locks) < 4
    assert set().union(*locks) == {one.claim.key.job for one in ends}
    assert await job_states(line, ends) == ["succeeded"] * 8


async def test_jobs_that_go_on_together_have_each_their_own_next_step(
    line: Line,
) -> None:
    rt = await line.worker()
    ends = await claimed(line, rt, 3, llm("draft"), llm("final"))
    ends += await claimed(line, rt, 1)
    ends += await claimed(
        line, rt, 1, llm("draft"), llm("f", "{{ steps.draft.output.x }}")
    )
    assert await finished(rt, ends) == [True] * 5
    states = [await line.states(one.claim.key.job) for one in ends]
    assert states[:3] == [{"draft": "succeeded", "final": "queued"}] * 3
    assert await job_states(line, ends) == ["active"] * 3 + ["succeeded", "failed"]


async def test_a_poisonous_finish_takes_no_other_with_it(line: Line) -> None:
    rt = await line.worker()
    ends = await claimed(line, rt, 5)
    bad = ends[2]
    ends[2] = Finish(bad.claim, "succeeded", PAID, '{"output": "\0"}')
    assert await finished(rt, ends) == [True] * 5
    states = await job_states(line, ends)
    assert states == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    (letter,) = await line.place.letters(bad.claim.key.job)
    assert letter["error"]["code"] == "too_large"
    (attempt,) = await line.place.attempts(bad.claim.key)
    assert attempt["cost"] == PAID.cost


async def test_a_poisonous_finish_takes_none_of_its_own_job_with_it(line: Line) -> None:
    rt = await line.worker()
    wide = parallel("all", *(llm(f"s{n}", fallback=None) for n in range(4)))
    job = await line.submit(chain(wide))
    ends = []
    for n in range(4):
        claim = await line.place.claimed(key(job, f"all.s{n}.s{n}"), rt.worker)
        output = '{"output": "\0"}' if n == 1 else '{"output": "fine"}'
        ends.append(Finish(claim, "succeeded", PAID, output))
    assert await finished(rt, ends) == [True] * 4
    states = await line.states(job)
    assert states.pop("all.s1.s1") == "failed"
    assert set(states.values()) == {"succeeded"}
    assert (await line.place.job_row(job))["state"] == "succeeded"


async def test_a_stale_finish_among_good_ones_is_told_so(line: Line) -> None:
    rt = await line.worker()
    ends = await claimed(line, rt, 4)
    stale = ends[1].claim
    await line.place.rows(
        "update steps set fence = fence + 1 where job_id = $1", stale.key.job
    )
    assert await finished(rt, ends) == [True, False, True, True]
    assert await line.states(stale.key.job) == {"draft": "running"}


async def test_a_lost_answer_to_many_finishes_does_nothing_twice(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "FIRST_PAUSE_S", 0.0)
    ledger = Forgetful(line.ledger, 0)
    rt = await line.worker(ledger=ledger)
    ends = await claimed(line, rt, 6, llm("draft"), llm("final"))
    ledger.times = 3
    assert await finished(rt, ends) == [True] * 6
    assert ledger.times == 0
    for one in ends:
        assert await line.states(one.claim.key.job) == {
            "draft": "succeeded",
            "final": "queued",
        }
    await ledger.close()


async def test_nothing_is_claimed_while_too_many_answers_wait_for_their_commit(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "UNCOMMITTED_AT_MOST", 2)
    rt = await line.worker()
    ends = await claimed(line, rt, 2)
    late = await line.submit(chain(llm("draft")))
    async with line.ledger.transaction() as held:
        await jobs.lock_all(held, [one.claim.key.job for one in ends])
        finishing = asyncio.create_task(finished(rt, ends))
        await asyncio.sleep(0)
        visit = asyncio.create_task(run_step(rt, late, "draft"))
        # A worker that is not held back has claimed its step by then.
        other = await line.submit(chain(llm("draft")))
        assert await run_step(await line.worker(), other, "draft") == Done()
        assert await line.states(late) == {"draft": "queued"}
        assert len(line.provider.calls) == 1
    assert await finishing == [True, True]
    assert await visit == Done()


async def test_a_wide_job_is_planned_seldom_and_its_ends_are_gathered(
    line: Line, monkeypatch: pytest.MonkeyPatch, locks: list[set[UUID]]
) -> None:
    monkeypatch.setattr(finish, "WIDE", 3)
    monkeypatch.setattr(finish, "PLAN_WIDE_EVERY_S", 1.0)
    rt = await line.worker()
    job = await line.submit(chain(parallel("all", *(llm(f"s{n}") for n in range(6)))))
    line.provider.hold()
    paths = [f"all.s{n}.s{n}" for n in range(6)]
    running = {path: asyncio.create_task(run_step(rt, job, path)) for path in paths}
    await until(lambda: len(line.provider.open) == 6, "all calls are open")
    locks.clear()
    for path in paths:
        line.provider.end(path, answer())
        # Meanwhile another job is committed, from its claim on.
        assert await finished(rt, await claimed(line, rt, 1)) == [True]
    assert list(await asyncio.gather(*running.values())) == [Done()] * 6
    assert [job in locked for locked in locks].count(True) == 2
    assert (await line.place.job_row(job))["state"] == "succeeded"
