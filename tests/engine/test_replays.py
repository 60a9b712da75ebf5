"""Replays as actions: paced, with canaries, edited, and never twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from llmgine_workers import clock
from llmgine_workers.engine import replays
from llmgine_workers.engine.edit import Edit
from llmgine_workers.engine.replays import Asked, Over, Take, decide
from llmgine_workers.errors import Refusal
from llmgine_workers.events import facts
from llmgine_workers.ledger import replays as ledger_replays
from llmgine_workers.ledger.letters import Wanted
from llmgine_workers.ledger.replays import Chosen, Seen
from tests.engine.line import Line, chain, key, llm, until
from tests.engine.stand_ins import answer, failing

SEEN = Seen(
    rate=50.0, canary=0, stop_if_fail=None, asked_by="ada", edit=None, since_s=0.1,
    pending=100, running=0, canary_pending=0, canary_running=0, canary_failed=0,
    canaries=0,
)  # fmt: skip
CANARY = replace(SEEN, canary=20, canaries=20, stop_if_fail=0.2)


@pytest.mark.parametrize(
    ("seen", "next_up"),
    [
        (SEEN, Take(5)),
        (replace(SEEN, since_s=0.01), Take(0)),
        (replace(SEEN, pending=3), Take(3)),
        (replace(SEEN, pending=0, running=2), Take(0)),
        (replace(SEEN, pending=0), Over("finished")),
        (replace(CANARY, canary_pending=2), Take(2)),
        (replace(CANARY, canary_running=1), Take(0)),
        (replace(CANARY, canary_failed=4), Take(5)),
        (replace(CANARY, canary_failed=1, stop_if_fail=0.05), Take(5)),
        (replace(CANARY, canary_failed=1, stop_if_fail=0.0), None),
        (replace(CANARY, canary_failed=5), None),
    ],
)
def test_what_is_next_follows_from_what_is_seen(
    seen: Seen, next_up: Take | Over | None
) -> None:
    """None: it stops, and says why."""
    found = decide(seen)
    if next_up is None:
        assert isinstance(found, Over)
        assert found.state == "stopped"
        assert f"{seen.canary_failed} of 20 canaries failed" in (found.reason or "")
        assert "100 letters were left" in (found.reason or "")
    else:
        assert found == next_up


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ({}, "invalid_input"),
        ({"promt": "x"}, "unknown_field"),
        ({"prompt": 1}, "invalid_input"),
        ({"model": [1]}, "invalid_input"),
        ({"inputs": "x"}, "invalid_input"),
    ],
)
def test_an_edit_is_read_strictly(written: dict[str, Any], code: str) -> None:
    with pytest.raises(Refusal) as refused:
        Edit.parse(written)
    assert refused.value.code == code


async def failed(line: Line, count: int = 1, **more: Any) -> list[UUID]:
    """Jobs of one chain that have failed at its second step."""
    rt = await line.worker()
    definition = chain(llm("draft"), llm("final"), **more)
    found = []
    for _ in range(count):
        found.append(await line.submit(definition))
        line.provider.will(answer(), failing("provider_rejected"))
        await line.run_to_end(rt, found[-1])
    line.provider.calls.clear()
    return found


def asked(*ids: UUID, **more: Any) -> Asked:
    return Asked(Chosen(Wanted(), list(ids)), "ada", rate=1000.0, **more)


async def standing(line: Line, replay: UUID) -> dict[str, Any]:
    found = await ledger_replays.found(line.ledger, replay)
    assert found is not None
    return found


async def advance_until(line: Line, replay: UUID, **counts: int) -> dict[str, Any]:
    async def reached() -> bool:
        await replays.advance(line.rt)
        found = await standing(line, replay)
        return all(found[name] == count for name, count in counts.items())

    await until(reached, str(counts))
    return await standing(line, replay)


integration = pytest.mark.integration


@integration
async def test_a_replay_starts_each_of_its_letters_once_and_counts_their_ends(
    line: Line,
) -> None:
    jobs = await failed(line, 4)
    id_ = await replays.start(line.rt, asked(*jobs))
    found = await advance_until(line, id_, replayed=4)
    assert (found["state"], found["total"], found["asked_by"]) == ("running", 4, "ada")
    rt = await line.worker()
    for job in jobs:
        await line.run_to_end(rt, job)
        assert (await line.place.job_row(job))["run"] == 1
    found = await advance_until(line, id_, succeeded=4)
    await replays.advance(line.rt)
    assert (await standing(line, id_))["state"] == "finished"
    assert [call.step[1] for call in line.provider.calls] == ["final"] * 4
    told = line.ear.heard(facts.ReplayProgress)
    assert (told[-1].state, told[-1].succeeded) == ("finished", 4)
    resolved = line.ear.heard(facts.LetterResolved)
    assert {(one.resolution, one.by) for one in resolved} == {("replayed", "ada")}


@integration
async def test_the_same_replay_twice_and_many_schedulers_run_nothing_twice(
    line: Line,
) -> None:
    jobs = await failed(line, 5)
    first, second = [await replays.start(line.rt, asked(*jobs)) for _ in range(2)]
    for _ in range(4):
        await asyncio.gather(*(replays.advance(line.rt) for _ in range(4)))
        await asyncio.sleep(0.01)

    async def all_taken() -> bool:
        await replays.advance(line.rt)
        rows = [await standing(line, one) for one in (first, second)]
        return sum(row["replayed"] for row in rows) == 5 and not any(
            row["pending"] for row in rows
        )

    await until(all_taken, "every letter is started or refused")
    rows = [await standing(line, one) for one in (first, second)]
    assert sum(row["refused"] for row in rows) == 5
    for job in jobs:
        assert (await line.place.job_row(job))["run"] == 1


@integration
async def test_a_canary_that_fails_stops_the_replay_and_leaves_the_rest(
    line: Line,
) -> None:
    jobs = await failed(line, 5)
    id_ = await replays.start(line.rt, asked(*jobs, canary=2, stop_if_fail=0.5))
    await advance_until(line, id_, replayed=2)
    await replays.advance(line.rt)
    assert (await standing(line, id_))["pending"] == 3, "it waits for the canaries' ends"
    line.provider.default = failing("provider_rejected")
    rt = await line.worker()
    for job in sorted(jobs)[:2]:
        await line.run_to_end(rt, job)
    found = await advance_until(line, id_, failed=2)
    assert found["state"] == "stopped"
    assert found["reason"].startswith("2 of 2 canaries failed, more than 50%: 3 letters")
    rows = [await line.place.job_row(job) for job in sorted(jobs)]
    assert [row["run"] for row in rows] == [1, 1, 0, 0, 0]


@integration
async def test_an_aborted_replay_starts_no_more(line: Line) -> None:
    jobs = await failed(line, 2)
    id_ = await replays.start(line.rt, asked(*jobs))
    assert await replays.abort(line.rt, id_, "bob")
    assert not await replays.abort(line.rt, id_, "bob")
    await replays.advance(line.rt)
    found = await standing(line, id_)
    assert (found["state"], found["reason"]) == ("aborted", "aborted by bob")
    assert [(await line.place.job_row(job))["run"] for job in jobs] == [0, 0]


@integration
async def test_an_edited_prompt_and_model_are_a_version_for_this_job_alone(
    line: Line,
) -> None:
    one, other = await failed(line, 2)
    before = (await line.place.job_row(one))["chain_version"]
    edit = {"prompt": "Again, for {{ job.id }}.", "model": "anthropic/test-model"}
    id_ = await replays.start(line.rt, asked(one, edit=edit))
    await advance_until(line, id_, replayed=1)
    step = await line.place.step_row(key(one, "final"))
    assert (step["pool"], step["model"]) == ("anthropic", "anthropic/test-model")
    await line.run_to_end(await line.worker("anthropic"), one)
    (call,) = line.provider.calls
    assert call.step[1] == "final"
    assert call.request.messages[0].content == f"Again, for {one}."
    row = await line.place.job_row(one)
    assert (row["state"], row["run"]) == ("succeeded", 1)
    assert row["chain_version"] != before
    assert (await line.place.job_row(other))["chain_version"] == before


@integration
async def test_edited_inputs_replace_those_they_name_and_the_first_are_kept(
    line: Line,
) -> None:
    rt = await line.worker()
    definition = chain(
        llm("draft", "{{ inputs.a }} {{ inputs.b }}"),
        inputs={"a": {"type": "string", "default": "x"},
                "b": {"type": "integer", "maximum": 5, "default": 1}},
    )  # fmt: skip
    job = await line.submit(definition)
    line.provider.will(failing("provider_rejected"))
    await line.run_to_end(rt, job)
    line.provider.calls.clear()
    with pytest.raises(Refusal, match="at most 5"):
        await replays.start(line.rt, asked(job, edit={"inputs": {"b": 9}}))
    assert (await line.place.job_row(job))["run"] == 0
    id_ = await replays.start(line.rt, asked(job, edit={"inputs": {"b": 2}}))
    await advance_until(line, id_, replayed=1)
    await line.run_to_end(rt, job)
    (call,) = line.provider.calls
    assert call.request.messages[0].content == "x 2"
    kept = await line.place.rows(
        "select path, body from payloads where job_id = $1 and kind = 'inputs' "
        "order by path",
        job,
    )
    assert [(row["path"], row["body"]) for row in kept] == [
        ("", '{"a":"x","b":2}'),
        ("@0", '{"a":"x","b":1}'),
    ]


@integration
@pytest.mark.parametrize(
    ("edit", "code"),
    [
        ({"prompt": "{{ steps.no_such.output }}"}, "invalid_chain"),
        ({"model": "nobody/x"}, "unknown_provider"),
        ({"inputs": {"nope": 1}}, "unknown_field"),
    ],
)
async def test_an_edit_that_does_not_fit_one_job_changes_none(
    line: Line, edit: dict[str, Any], code: str
) -> None:
    jobs = await failed(line, 2)
    with pytest.raises(Refusal) as refused:
        await replays.start(line.rt, asked(*jobs, edit=edit))
    assert refused.value.code == code
    assert [(await line.place.job_row(job))["run"] for job in jobs] == [0, 0]


@integration
async def test_a_replay_says_first_how_many_jobs_and_calls_it_means(line: Line) -> None:
    jobs = await failed(line, 3)
    before = await ledger_replays.running(line.ledger)
    found = await replays.look(line.rt, asked(*jobs))
    assert (found.total, found.resolved, found.calls) == (3, 0, 3)
    assert await ledger_replays.running(line.ledger) == before


@integration
async def test_what_cannot_be_asked_for_is_refused(line: Line) -> None:
    (job,) = await failed(line)
    for more in (
        {"canary": -1}, {"stop_if_fail": 0.2}, {"canary": 2, "stop_if_fail": 1.5},
    ):  # fmt: skip
        with pytest.raises(Refusal) as refused:
            await replays.start(line.rt, asked(job, **more))
        assert refused.value.code == "out_of_range"
    with pytest.raises(Refusal) as refused:
        await replays.start(line.rt, asked(clock.uuid7()))
    assert refused.value.code == "not_found"
    id_ = await replays.start(line.rt, asked(job))
    await advance_until(line, id_, replayed=1)
    (letter,) = await line.place.letters(job)
    with pytest.raises(Refusal) as refused:
        await replays.start(line.rt, asked(letter["id"]))
    assert refused.value.code == "already_resolved"
