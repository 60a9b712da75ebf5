"""Row 17: a failed job goes on from the steps that failed, once per letter."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from llmgine_workers import clock
from llmgine_workers.engine.outcome import Done
from llmgine_workers.engine.replay import Replayed, replay
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.events import facts
from llmgine_workers.tools import Tools
from tests.engine.line import Line, chain, key, llm, parallel, until
from tests.engine.stand_ins import answer, failing

pytestmark = pytest.mark.integration

REJECTED = failing("provider_rejected")


async def failed_job(line: Line) -> UUID:
    """A job that has failed at its second step."""
    rt = await line.worker()
    job = await line.submit(chain(llm("draft"), llm("final")))
    line.provider.will(answer(), REJECTED)
    await line.run_to_end(rt, job)
    line.provider.calls.clear()
    return job


async def letter_of(line: Line, job: UUID, run: int = 0) -> UUID:
    (letter,) = [one for one in await line.place.letters(job) if one["run"] == run]
    return UUID(str(letter["id"]))


async def test_a_replay_calls_only_what_failed(line: Line) -> None:
    job = await failed_job(line)
    letter = await letter_of(line, job)
    before = await line.place.job_row(job)

    assert await replay(line.rt, [letter], "ada") == [Replayed(letter, job)]

    row = await line.place.job_row(job)
    assert (row["state"], row["run"], row["failure"]) == ("active", 1, None)
    assert row["finished_at"] is None
    assert row["expires_at"] > before["expires_at"]
    assert await line.states(job) == {"draft": "succeeded", "final": "queued"}
    step = await line.place.step_row(key(job, "final"))
    assert (step["tries"], step["crashes"], step["failure"]) == (0, 0, None)
    await line.run_to_end(await line.worker(), job)
    assert [call.step[1] for call in line.provider.calls] == ["final"]
    assert await line.output(job) == '"fine"'
    (closed,) = await line.place.letters(job)
    assert (closed["state"], closed["resolution"]) == ("resolved", "replayed")
    assert closed["resolved_by"] == "ada"
    (told,) = line.ear.heard(facts.JobReplayed)
    assert (told.job, told.step) == (job, "final")


async def test_a_job_may_be_named_instead_of_its_letter(line: Line) -> None:
    job = await failed_job(line)
    letter = await letter_of(line, job)
    assert await replay(line.rt, [job], "ada") == [Replayed(letter, job)]


async def test_ten_replays_at_once_are_one(line: Line) -> None:
    job = await failed_job(line)
    letter = await letter_of(line, job)
    found = await asyncio.gather(*(replay(line.rt, [letter], "ada") for _ in range(10)))
    done = [one for (one,) in found if one.refused is None]
    assert len(done) == 1
    assert (await line.place.job_row(job))["run"] == 1
    await line.run_to_end(await line.worker(), job)
    assert len(line.provider.calls) == 1
    (again,) = await replay(line.rt, [letter], "ada")
    assert again.refused == "it is replayed already"
    (again,) = await replay(line.rt, [job], "ada")
    assert again.refused == "it is replayed already"


async def test_a_run_that_fails_again_has_a_letter_of_its_own(line: Line) -> None:
    job = await failed_job(line)
    await replay(line.rt, [job], "ada")
    line.provider.default = REJECTED
    await line.run_to_end(await line.worker(), job)
    first, second = await line.place.letters(job)
    assert [first["run"], second["run"]] == [0, 1]
    assert [first["state"], second["state"]] == ["resolved", "open"]
    assert first["task_id"] != second["task_id"]
    (done,) = await replay(line.rt, [job], "ada")
    assert done == Replayed(second["id"], job)


async def test_cancelled_siblings_run_again_and_finished_ones_do_not(
    line: Line,
) -> None:
    rt = await line.worker()
    branches = parallel("all", llm("a"), llm("b"), llm("c"))
    job = await line.submit(chain(branches))
    await run_step(rt, job, "all.a.a")
    line.provider.will(REJECTED)
    await run_step(rt, job, "all.b.b")
    assert await line.states(job) == {
        "all.a.a": "succeeded",
        "all.b.b": "failed",
        "all.c.c": "cancelled",
    }
    line.provider.calls.clear()
    await replay(line.rt, [job], "ada")
    await line.run_to_end(rt, job)
    assert sorted(call.step[1] for call in line.provider.calls) == ["all.b.b", "all.c.c"]
    assert (await line.place.job_row(job))["state"] == "succeeded"


async def test_an_answer_that_came_while_the_job_failed_is_not_paid_again(
    line: Line,
) -> None:
    rt = await line.worker()
    job = await line.submit(chain(parallel("all", llm("a"), llm("b"))))
    line.provider.hold()
    slow = asyncio.create_task(run_step(rt, job, "all.a.a"))
    await until(lambda: line.provider.open, "the call is open")
    await line.place.end(job, "failed", REJECTED.failure)
    line.provider.let_go()
    assert await slow == Done()
    line.provider.calls.clear()

    await replay(line.rt, [job], "ada")
    await line.run_to_end(rt, job)

    assert [call.step[1] for call in line.provider.calls] == ["all.b.b"]
    assert (await line.place.job_row(job))["state"] == "succeeded"


async def test_a_step_that_failed_into_its_fallback_stays_failed(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(chain(llm("draft", fallback="by hand"), llm("final")))
    line.provider.will(REJECTED, REJECTED)
    await line.run_to_end(rt, job)
    assert await line.states(job) == {"draft": "failed", "final": "failed"}
    line.provider.calls.clear()
    await replay(line.rt, [job], "ada")
    await line.run_to_end(rt, job)
    assert await line.states(job) == {"draft": "failed", "final": "succeeded"}
    assert [call.step[1] for call in line.provider.calls] == ["final"]


async def test_a_cancelled_step_with_a_fallback_runs_again(line: Line) -> None:
    """It never failed, so its fallback does not stand in for it."""
    rt = await line.worker()
    branches = parallel("all", llm("a", fallback="by hand"), llm("b"))
    job = await line.submit(chain(branches))
    line.provider.will(REJECTED)
    await run_step(rt, job, "all.b.b")
    assert (await line.states(job))["all.a.a"] == "cancelled"
    await replay(line.rt, [job], "ada")
    await line.run_to_end(rt, job)
    assert set((await line.states(job)).values()) == {"succeeded"}


async def test_a_job_whose_plan_failed_plans_again(line: Line) -> None:
    rt = await line.worker()
    job = await line.submit(
        chain(llm("draft"), llm("final", "{{ steps.draft.output.missing }}"))
    )
    await run_step(rt, job, "draft")
    line.provider.calls.clear()
    (done,) = await replay(line.rt, [job], "ada")
    assert done.refused is None
    row = await line.place.job_row(job)
    assert (row["state"], row["run"]) == ("failed", 1)
    assert [letter["run"] for letter in await line.place.letters(job)] == [0, 1]
    assert line.provider.calls == []


async def test_what_cannot_be_replayed_says_why(line: Line) -> None:
    unknown = clock.uuid7()
    (refused,) = await replay(line.rt, [unknown], "ada")
    assert refused == Replayed(unknown, refused="no such dead letter")

    job = await failed_job(line)
    await line.place.rows("delete from payloads where job_id = $1", job)
    (refused,) = await replay(line.rt, [job], "ada")
    assert refused.refused == "its inputs are no longer kept"
    assert (await line.place.job_row(job))["state"] == "failed"

    await line.place.rows("delete from jobs where id = $1", job)
    (refused,) = await replay(line.rt, [job], "ada")
    assert refused.refused == "its job is gone"


async def test_a_job_whose_tool_is_gone_is_not_replayed(line: Line) -> None:
    job = await line.submit_tool("break_oddly")
    await line.run_to_end(await line.worker("tools"), job)
    line.rt.tools = Tools([])
    (refused,) = await replay(line.rt, [job], "ada")
    assert refused.refused == "the tool break_oddly does not exist any more"
    (letter,) = await line.place.letters(job)
    assert letter["state"] == "open"


async def test_of_many_letters_each_has_its_own_answer(line: Line) -> None:
    good, bad = await failed_job(line), clock.uuid7()
    first, second = await replay(line.rt, [bad, good], "ada")
    assert first.refused
    assert second.job == good
    assert second.refused is None
