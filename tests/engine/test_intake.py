"""Submits at the same moment share a statement, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from chains import load_chain
from llmgine_workers.engine import chosen
from llmgine_workers.engine.chosen import KnownChains
from llmgine_workers.engine.intake import LOOK_AGAIN_S, Intake
from llmgine_workers.engine.submit import JobRequest, Submitted, submit
from llmgine_workers.errors import Refusal
from llmgine_workers.ledger import jobs
from llmgine_workers.ledger.connection import Ledger, LedgerDown
from llmgine_workers.ledger.submits import Submit
from tests.engine.line import Line, chain, llm
from tests.ledger.rows import Place


def tenant() -> str:
    return f"t{uuid4().hex[:8]}"


async def submitted(line: Line, owner: str, *requests: Any) -> list[Any]:
    """All at once; a request is a JobRequest, or one with its key."""
    return await asyncio.gather(
        *(
            submit(line.rt, owner, *(one if isinstance(one, tuple) else (one,)))
            for one in requests
        ),
        return_exceptions=True,
    )


async def rows_of(line: Line, owner: str) -> list[Any]:
    return await line.place.rows("select * from jobs where tenant = $1", owner)


@pytest.mark.integration
async def test_submits_at_one_moment_are_few_transactions(line: Line) -> None:
    owner, what = tenant(), JobRequest(chain=chain(llm("draft")))
    answers = await submitted(line, owner, *[what] * 60)
    rows = await rows_of(line, owner)
    assert {row["id"] for row in rows} == {answer.job for answer in answers}
    assert len({row["created_at"] for row in rows}) < 10


@pytest.mark.integration
async def test_a_key_that_is_taken_is_its_own_requests_affair(line: Line) -> None:
    owner, what = tenant(), JobRequest(chain=chain(llm("draft")))
    first = await submit(line.rt, owner, what, ("one", b"body"))
    again, other, free, bare = await submitted(
        line,
        owner,
        (what, ("one", b"body")),
        (what, ("one", b"another body")),
        (what, ("two", b"body")),
        what,
    )
    assert (again.job, again.replayed) == (first.job, True)
    assert isinstance(other, Refusal)
    assert other.code == "idempotency_mismatch"
    assert {free.replayed, bare.replayed} == {False}
    assert {row["id"] for row in await rows_of(line, owner)} == {
        first.job, free.job, bare.job,
    }  # fmt: skip


@pytest.mark.integration
async def test_equal_requests_at_one_moment_make_one_job(line: Line) -> None:
    owner, what = tenant(), JobRequest(chain=chain(llm("draft")))
    answers = await submitted(line, owner, *[(what, ("one", b"body"))] * 30)
    assert len({answer.job for answer in answers}) == 1
    assert [answer.replayed for answer in answers].count(False) == 1
    assert len(await rows_of(line, owner)) == 1


@pytest.mark.integration
async def test_a_job_that_cannot_be_stored_fails_alone(line: Line) -> None:
    owner, what = tenant(), chain(llm("draft"))
    poisonous = JobRequest(chain=what, metadata={"a": "\0"})
    answers = await submitted(
        line, owner, *[JobRequest(chain=what)] * 3, poisonous, JobRequest(chain=what)
    )
    failed = [answer for answer in answers if isinstance(answer, Exception)]
    assert failed == [answers[3]]
    assert not isinstance(failed[0], LedgerDown), "it is no outage"
    assert len(await rows_of(line, owner)) == 4


@pytest.mark.integration
async def test_one_moment_does_not_carry_a_tenant_over_its_cap(line: Line) -> None:
    line.rt.intake = Intake(line.ledger, 8)
    owner, other = tenant(), tenant()
    what = JobRequest(chain=chain(llm("draft")))
    answers = await submitted(line, owner, *[what] * 20)
    refused = [answer for answer in answers if not isinstance(answer, Submitted)]
    assert {getattr(one, "code", one) for one in refused} == {"tenant_queue_full"}
    assert len(refused) == 12
    assert len(await rows_of(line, owner)) == 8
    assert isinstance((await submitted(line, other, what))[0], Submitted)


@pytest.mark.integration
async def test_a_tenants_load_is_looked_at_again_after_a_moment(line: Line) -> None:
    now = 0.0
    intake = Intake(line.ledger, 8, clock=lambda: now)
    owner = tenant()
    await intake.take_room(owner, 8)
    with pytest.raises(Refusal):
        await intake.take_room(owner, 1)
    now = LOOK_AGAIN_S
    await intake.take_room(owner, 8)
    assert await jobs.queued_each(line.ledger, [owner]) == [0]


async def test_an_absent_ledger_refuses_all_that_wait_for_it() -> None:
    ledger = Ledger("postgresql://127.0.0.1:1/none", "none")
    intake, place = Intake(ledger, 100), Place(ledger)
    found = await asyncio.gather(
        *(intake.insert(Submit(place.job(), [True])) for _ in range(20)),
        intake.insert(Submit(place.job(), [True], ("key", b"body"))),
        return_exceptions=True,
    )
    assert [type(one) for one in found] == [LedgerDown] * 21


def test_chains_in_memory_are_bounded_by_what_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chosen, "KEPT_BYTES", 30)
    known = KnownChains()
    kept: dict[bytes, Any] = {
        text: object() for text in (b"a" * 10, b"b" * 10, b"c" * 10)
    }
    for text, one in kept.items():
        known.keep(text, one)
    assert known.get(b"a" * 10) is kept[b"a" * 10]
    newest: Any = object()
    known.keep(b"d" * 10, newest)
    found = {letter: known.get(10 * letter) for letter in (b"a", b"b", b"d")}
    assert found[b"b"] is None, "it was not asked for the longest"
    assert (found[b"a"], found[b"d"]) == (kept[b"a" * 10], newest)
    known.keep(b"e" * 40, newest)
    assert known.get(b"e" * 40) is None, "one that is too large is not kept"


@pytest.mark.integration
async def test_a_chain_that_is_brought_along_is_read_once(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0

    def counted(definition: Any) -> Any:
        nonlocal reads
        reads += 1
        return load_chain(definition)

    monkeypatch.setattr(chosen, "load_chain", counted)
    what, owner = chain(llm("draft")), tenant()
    for _ in range(3):
        await submit(line.rt, owner, JobRequest(chain=dict(what)))
    assert reads == 1
    versions = {row["chain_version"] for row in await rows_of(line, owner)}
    assert len(versions) == 1
    stored = "select 1 from chains where version = $1"
    assert len(await line.place.rows(stored, versions.pop())) == 1
