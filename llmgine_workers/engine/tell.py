"""After a commit: hints to the broker, facts to the handlers. Never before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from llmgine_workers import clock
from llmgine_workers.engine.hints import released_of
from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.errors import Failure
from llmgine_workers.events import facts
from llmgine_workers.events.facts import Fact
from llmgine_workers.ledger import outcomes
from llmgine_workers.ledger.connection import while_away
from llmgine_workers.ledger.outcomes import Outcome
from llmgine_workers.ledger.records import Finish, NewStep

if TYPE_CHECKING:
    from llmgine_workers.engine.consequence import Consequence
    from llmgine_workers.engine.visit import Visit
    from llmgine_workers.runtime import Runtime


async def attempt_finished(visit: Visit, state: str, failure: Failure | None) -> None:
    """One physical call is over."""
    claim, billed, answered = visit.held, visit.billed, visit.answered
    await visit.rt.events.emit(
        facts.AttemptFinished(
            claim.attempt,
            claim.key.job,
            claim.key.path,
            claim.n,
            visit.step.model,
            state,
            visit.started_at,
            first_token_at=visit.first_token_at,
            answered_by=answered.model if answered else None,
            usage=billed.usage,
            cost_usd=None if billed.cost is None else billed.cost / 1_000_000,
            error=failure,
            kind=visit.step.kind,
        )
    )


async def after_commit(rt: Runtime, told: Sequence[Consequence]) -> None:
    """Facts in the order they happened, then the hints: nobody starts before its fact."""
    ended = await _endings(rt, {one.job.id: one.letter for one in told if one.end})
    news = (*(fact for one in told for fact in _progress(one)), *ended)
    if news:
        await rt.events.emit(*news)
    for one in told:
        about = (one.job.id, one.job.chain_name, one.job.run)
        rt.hints.offer(released_of(*about, one.queued, one.released))
        if one.failure and not one.end:
            await stop_calls(rt, one.job.id)


def waiting(reason: str, detail: str, until: datetime) -> dict[str, Any]:
    """The public `waiting` of a step."""
    return {
        "reason": reason,
        "detail": detail,
        "since": clock.rfc3339(clock.now()),
        "until": clock.rfc3339(until),
    }


def begun(job: UUID, step: NewStep) -> facts.StepFact:
    """A step of a job is there: queued, or waiting if that is all it does."""
    if step.kind != "wait":
        return facts.StepQueued(job, step.path, step.kind, step.pool)
    until = clock.now() + timedelta(seconds=step.timeout_s)
    why = waiting("timer", "the chain waits here", until)
    return facts.StepWaiting(job, step.path, why)


async def stop_calls(rt: Runtime, job: UUID) -> None:
    """Row 15: the job is ending, its calls are no use any more."""
    with suppress(EphemeralDown):  # the beat tells them within 3 s
        await rt.signals.cancel(job, None)


async def job_ended(rt: Runtime, job: UUID, letter: UUID | None) -> None:
    """The last fact of a job's run, as the ledger has it."""
    await rt.events.emit(*await _endings(rt, {job: letter}))


async def _endings(rt: Runtime, letters: Mapping[UUID, UUID | None]) -> list[Fact]:
    if not letters:
        return []
    found = await while_away(lambda: outcomes.read(rt.ledger, letters))
    return [fact for job in found for fact in _ending(job, found[job], letters[job])]


def _ending(job: UUID, ended: Outcome, letter: UUID | None) -> Iterator[Fact]:
    yield facts.JobFinished(
        job,
        state=ended.state,
        output=ended.output,
        error=ended.error,
        usage=ended.usage,
        cost_usd=ended.cost_usd,
        dead_letter=letter,
    )
    if letter and ended.error:
        yield facts.LetterRecorded(letter, job, ended.error.step, ended.error.code)


def _progress(told: Consequence) -> Iterator[Fact]:
    for finish, state in told.settled:
        yield _finished(finish, state)
    for step in told.queued:
        yield begun(told.job.id, step)


def _finished(finish: Finish, state: str) -> facts.StepFinished:
    stored = orjson.loads(finish.output) if finish.output else {}
    billed = finish.billed
    return facts.StepFinished(
        finish.claim.key.job,
        step=finish.claim.key.path,
        state=state,
        output=stored.get("output"),
        text=stored.get("text"),
        model=stored.get("model"),
        usage=billed.usage,
        cost_usd=None if billed.cost is None else billed.cost / 1_000_000,
        error=finish.failure,
        fence=finish.claim.fence or None,
    )
