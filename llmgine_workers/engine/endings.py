"""The ends of a visit that has been let through: each writes once and has a name."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from chains.chain import CALLING
from llmgine_workers import clock
from llmgine_workers.engine import failover, tell
from llmgine_workers.engine.clean import as_json, clean_failure, clean_text
from llmgine_workers.engine.finish import end_unclaimed
from llmgine_workers.engine.outcome import Dead, Done, Outcome, Retry, Skip
from llmgine_workers.engine.visit import Answer, Refused, Visit
from llmgine_workers.errors import Failure, Follows, StepFailed
from llmgine_workers.events import facts
from llmgine_workers.ledger import steps
from llmgine_workers.ledger.connection import while_away
from llmgine_workers.ledger.records import Billed, Claim, Finish, Released, StepKey
from llmgine_workers.resilience import retry

if TYPE_CHECKING:
    from llmgine_workers.worker_runtime import WorkerRuntime


async def succeeded(visit: Visit, answer: Answer) -> Outcome:
    """Row 7."""
    stored = {"output": answer.output, "text": answer.text, "model": answer.model}
    try:
        output = as_json(stored)
    except StepFailed as too_large:
        return await failed(visit, too_large)
    reason = answer.finish_reason and clean_text(answer.finish_reason)
    return await _finish(visit, "succeeded", output, reason)


async def failed(visit: Visit, error: StepFailed) -> Outcome:
    """Rows 8 and 10: again later, or dead."""
    step, claim = visit.step, visit.claim
    failure = clean_failure(error.failure)
    if claim is None:
        return await failover.after_failure(visit, failure) or await _never_called(
            visit, failure
        )
    decision = retry.decide(
        failure,
        tries=step.tries + visit.calls,
        max_attempts=step.max_attempts,
        retry_after_s=error.retry_after_s,
        seconds_left=visit.seconds_left,
    )
    if isinstance(decision, retry.GiveUp):
        visit.failure = failure.at(step.key.path, claim.n, exhausted=decision.exhausted)
        if decision.exhausted or failure.follows is Follows.NEXT_MODEL:
            elsewhere = await failover.after_failure(visit, visit.failure)
            if elsewhere:
                return elsewhere
        return await _finish(visit, "failed", None, None)
    visit.failure = failure.at(step.key.path, claim.n, exhausted=False)
    if isinstance(decision, retry.WaitFor):
        return await _later(
            visit, claim, decision, decision.reason, spent=visit.calls - 1
        )
    return await _later(visit, claim, decision, "retry", spent=visit.calls)


def of_bug(kind: str, bug: Exception) -> StepFailed:
    """An error of our own, as one that passes: its tries are bounded like any other's."""
    code = "provider_bad_response" if kind in CALLING else "tool_unavailable"
    return StepFailed(Failure(code, f"internal error: {type(bug).__name__}"))


async def refused_again(visit: Visit, refused: Refused) -> Outcome:
    """A retry in place was refused by a gate: the ledger takes over."""
    pause = retry.WaitFor(refused.delay_s, refused.reason)
    return await _later(
        visit, visit.held, pause, refused.reason, spent=visit.calls, detail=str(refused)
    )


async def stopped(visit: Visit, why: str | None) -> Outcome:
    """The call was cancelled: its job is ending, or this process is."""
    claim = visit.claim
    if claim is None:
        return Skip(why or "stopped")
    if why == "job ending":
        return await _finish(visit, "cancelled", None, None)
    if why == "grace is over":
        await while_away(lambda: steps.give_back(visit.rt.ledger, [claim], "ambiguous"))
        await visit.rt.events.emit(
            facts.StepRestarted(
                claim.key.job, claim.key.path, claim.n, why, fence=claim.fence + 1
            )
        )
    return Skip(why or "stopped")


async def hand_back(rt: WorkerRuntime, key: StepKey) -> Outcome:
    """Row 11: an unclaimed hint of a process that is leaving."""
    await while_away(lambda: steps.unrelease(rt.ledger, [Released(key, rt.pool, "", 0)]))
    return Skip("this worker is leaving")


async def _later(
    visit: Visit,
    claim: Claim,
    again: retry.RetryLater | retry.WaitFor,
    reason: str,
    *,
    spent: int,
    detail: str = "",
) -> Outcome:
    """The ledger wakes it again; `detail` says why, else the failure does."""
    failure, delay_s = visit.failure, again.delay_s
    if not detail:
        detail = f"{failure.code}: {failure.message}" if failure else reason
    finish = Finish(claim, "failed", visit.billed, failure=failure)
    await while_away(
        lambda: steps.retry_later(
            visit.rt.ledger, finish, delay_s, reason, detail, spent=spent
        )
    )
    until = clock.now() + timedelta(seconds=delay_s)
    await visit.rt.events.emit(
        facts.StepRestarted(
            claim.key.job, claim.key.path, claim.n, reason, fence=claim.fence
        ),
        facts.StepWaiting(
            claim.key.job,
            claim.key.path,
            tell.waiting(reason, detail, until),
            fence=claim.fence,
        ),
    )
    return Retry(detail, until)


async def _finish(
    visit: Visit, state: str, output: str | None, finish_reason: str | None
) -> Outcome:
    finish = Finish(visit.held, state, visit.billed, output, finish_reason, visit.failure)
    if not await visit.rt.finisher.finish(finish):
        return Skip("stale: the step has another owner")
    if state == "failed" and visit.failure:
        return Dead(visit.failure.code, visit.failure.message)
    return Done()


async def _never_called(visit: Visit, failure: Failure) -> Outcome:
    """A step that may not even start: its budget is used up, its limit too low."""
    key = visit.step.key
    dead = failure.at(key.path, 0, exhausted=False)
    unclaimed = Claim(key, 0, visit.rt.worker, 0)
    await end_unclaimed(
        visit.rt,
        Finish(unclaimed, "failed", Billed(), failure=dead),
        lambda connection, state: steps.fail_queued(connection, key, state, dead),
    )
    return Dead(dead.code, dead.message)
