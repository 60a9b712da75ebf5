"""After a commit: hints to the broker, facts to the handlers. Never before."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

import orjson

from llmgine_workers.engine.hints import released_of
from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.errors import Failure
from llmgine_workers.events import facts
from llmgine_workers.ledger import views
from llmgine_workers.ledger.connection import while_away
from llmgine_workers.ledger.records import Finish
from llmgine_workers.llm import Usage

if TYPE_CHECKING:
    from llmgine_workers.engine.finish import Consequence
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
        )
    )


async def after_commit(rt: Runtime, told: Consequence) -> None:
    """Facts in the order they happened, then the hints: nobody starts before its fact."""
    if told.job is None:
        return
    await rt.events.emit(
        *(_finished(finish, state) for finish, state in told.settled),
        *(
            facts.StepQueued(told.job.id, step.path, step.kind, step.pool)
            for step in told.queued
        ),
    )
    about = (told.job.id, told.job.chain_name, told.job.run)
    rt.hints.offer(released_of(*about, told.queued, told.released))
    if told.end:
        await job_ended(rt, told.job.id, told.letter)
    elif told.failure:
        await stop_calls(rt, told.job.id)


async def stop_calls(rt: Runtime, job: UUID) -> None:
    """Row 15: the job is ending, its calls are no use any more."""
    with suppress(EphemeralDown):  # the beat tells them within 3 s
        await rt.signals.cancel(job, None)


async def job_ended(rt: Runtime, job: UUID, letter: UUID | None) -> None:
    """The last fact of a job's run, as the ledger has it."""
    shown = await while_away(lambda: views.outcome(rt.ledger, job))
    if shown is None:
        return
    await rt.events.emit(
        facts.JobFinished(
            job,
            state=shown["state"],
            output=shown["output"],
            error=Failure(**shown["error"]) if shown["error"] else None,
            usage=Usage(**shown["usage"]),
            cost_usd=shown["cost_usd"],
            dead_letter=letter,
        )
    )
    if letter:
        error = shown["error"]
        await rt.events.emit(
            facts.LetterRecorded(letter, job, error["step"], error["code"])
        )


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
    )
