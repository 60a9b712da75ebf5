"""The gates around one call. Each lets a visit through, or ends it with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from llmgine_workers import clock
from llmgine_workers.engine import billing, tell
from llmgine_workers.engine.bounds import demand_of
from llmgine_workers.engine.clean import clean_failure
from llmgine_workers.engine.visit import Answer, NotOurs, Refused, Visit
from llmgine_workers.errors import Failure, StepFailed
from llmgine_workers.events import facts
from llmgine_workers.ledger import attempts, budgets
from llmgine_workers.ledger.attempts import Closing, NoRoom, Opening
from llmgine_workers.ledger.connection import while_away
from llmgine_workers.ledger.records import Claim
from llmgine_workers.llm import Quota
from llmgine_workers.resilience import admission as admission_room
from llmgine_workers.resilience import retry
from llmgine_workers.resilience.admission import CANCELLED, SUCCEEDED, Admitted
from llmgine_workers.resilience.rules import Units, units_of

if TYPE_CHECKING:
    from llmgine_workers.worker_runtime import WorkerRuntime

Next: TypeAlias = Callable[[Visit], Awaitable[Answer]]

PAUSED_WAIT_S = 3600.0
"""Nobody knows how long; it is looked at again this soon, in case nobody is left who
resumes."""

BUDGET_WAIT_S = 1.0
"""A sibling's call may give some of its reservation back; look again this soon."""


async def retry_in_place(visit: Visit, call: Next) -> Answer:
    """Try again at once what failed before its first byte; each try is an attempt."""

    async def once() -> Answer:
        return await call(visit)

    return await retry.in_place(
        once,
        attempts_left=visit.step.max_attempts - visit.step.tries,
        seconds_left=lambda: visit.call_seconds_left,
    )


async def open_pool(visit: Visit, call: Next) -> Answer:
    """Nothing begins in a pool that a person paused; resuming wakes what waits for it."""
    paused = visit.rt.pools.paused(visit.rt.pool)
    if paused:
        raise Refused("paused", paused, PAUSED_WAIT_S)
    return await call(visit)


async def admission(visit: Visit, call: Next) -> Answer:
    """One verdict of breaker, pause and limits; what was reserved is settled after."""
    gate, step, calls = visit.rt.admission, visit.step, visit.calls
    demand = demand_of(step.model or "", step.tenant, visit.request, step.key)
    verdict = await gate.ask(demand, visit.call_seconds_left)
    if not isinstance(verdict, Admitted):
        _refuse(verdict)
    visit.admitted = verdict
    try:
        answer = await call(visit)
    except (NotOurs, Refused):
        await gate.refund(verdict)
        raise
    except StepFailed as failed:
        if visit.calls == calls:  # it ended before the call
            await gate.refund(verdict)
        else:
            await _settle_failed(visit, verdict, failed)
        raise
    except BaseException:  # cancelled, or a bug: nobody knows what was used
        await asyncio.shield(gate.settle(verdict, CANCELLED))
        raise
    await gate.settle(verdict, SUCCEEDED, used=_used(visit), quota=_quota(visit))
    return answer


async def _settle_failed(visit: Visit, admitted: Admitted, failed: StepFailed) -> None:
    await visit.rt.admission.settle(
        admitted,
        failed.failure.code,
        used=_used(visit, failed),
        quota=_quota(visit),
        retry_after_s=failed.retry_after_s,
    )


def _used(visit: Visit, failed: StepFailed | None = None) -> Units | None:
    usage = billing.account(visit, failed)
    return units_of(usage.input_tokens, usage.output_tokens) if usage else None


def _quota(visit: Visit) -> Quota | None:
    return visit.answered.quota if visit.answered else None


async def attempt(visit: Visit, call: Next) -> Answer:
    """Claim the step, or open a further attempt under the claim it has (row 6)."""
    bound = billing.upper_bound(visit)
    if bound is None and visit.is_budgeted:
        why = f"{visit.step.model} has no known price that a budget could bound"
        raise StepFailed(Failure("budget_exhausted", why))
    claim = await _opened(visit, bound)
    if claim is None:
        raise NotOurs("claimed by another, moved or ending")
    visit.opened(claim)
    await visit.rt.events.emit(
        facts.StepStarted(
            claim.key.job,
            claim.key.path,
            attempt=claim.n,
            model=visit.step.model,
            fence=claim.fence,
        )
    )
    try:
        answer = await call(visit)
    except StepFailed as failed:
        await tell.attempt_finished(visit, "failed", failed.failure)
        raise
    except asyncio.CancelledError:
        await asyncio.shield(tell.attempt_finished(visit, "cancelled", None))
        raise
    await tell.attempt_finished(visit, "succeeded", None)
    return answer


async def meter(visit: Visit, call: Next) -> Answer:
    """Write down what the call used, however it ends."""
    visit.start_call()
    if visit.admitted:  # the claim took its time
        await visit.rt.admission.begin(visit.admitted)
    try:
        return await call(visit)
    except StepFailed as failed:
        visit.billed = billing.of_failure(visit, failed)
        visit.failure = clean_failure(failed.failure)
        raise
    except asyncio.CancelledError:
        visit.billed = billing.of_cut_call(visit)
        raise


def _refuse(verdict: admission_room.Wait | admission_room.Refused) -> NoReturn:
    if isinstance(verdict, admission_room.Wait):
        raise Refused(verdict.reason, verdict.detail, verdict.retry_after_s)
    raise StepFailed(Failure(verdict.code, verdict.detail))


async def _opened(visit: Visit, reserved: int | None) -> Claim | None:
    rt, step, held = visit.rt, visit.step, visit.claim
    simulated = rt.models.is_simulated(step.model)
    fresh = attempts.new_claim_id()
    wanted = Opening(step, rt.worker, fresh, simulated, reserved)
    if held:
        await _close_failed(visit, held)
    try:
        if visit.budgets:
            return await _opened_within(visit, wanted)
        return await while_away(lambda: _open(rt, held, wanted))
    except NoRoom as no_room:
        raise _no_room(no_room) from None


async def _opened_within(visit: Visit, wanted: Opening) -> Claim | None:
    """The same, with the budgets of the settings that count it."""
    ledger, held, mine = visit.rt.ledger, visit.claim, visit.budgets
    try:
        claim, told = await while_away(
            lambda: (
                budgets.next_attempt(ledger, held, wanted, mine)
                if held
                else budgets.claim(ledger, wanted, mine)
            )
        )
    except budgets.Exhausted as exhausted:
        if exhausted.is_news:
            await _tell_budget(visit, exhausted.told)
        raise _exhausted(exhausted) from None
    for one in told:
        await _tell_budget(visit, one)
    return claim


def _exhausted(exhausted: budgets.Exhausted) -> Refused | StepFailed:
    until = exhausted.until
    if until is None or exhausted.told.budget.refuses:
        return StepFailed(Failure("budget_exhausted", str(exhausted)))
    delay_s = max(BUDGET_WAIT_S, (until - clock.now()).total_seconds())
    return Refused("budget", str(exhausted), delay_s)


def _no_room(no_room: NoRoom) -> Refused | StepFailed:
    if no_room.calling:
        return Refused("budget", str(no_room), BUDGET_WAIT_S)
    why = "max_cost_usd has no room for this call's upper bound"
    return StepFailed(Failure("budget_exhausted", why))


async def _tell_budget(visit: Visit, told: budgets.Told) -> None:
    one = told.budget
    await visit.rt.events.emit(
        facts.BudgetUsed(one.name, told.percent, told.used / 1e6, one.micro / 1e6)
    )


def _open(
    rt: WorkerRuntime, held: Claim | None, wanted: Opening
) -> Awaitable[Claim | None]:
    if held:
        return attempts.next_attempt(rt.ledger, held, wanted)
    if wanted.step.has_budget:
        return attempts.claim_within_budget(rt.ledger, wanted)
    return rt.together.claim(wanted)


async def _close_failed(visit: Visit, held: Claim) -> None:
    closing = Closing(held, "failed", visit.billed, visit.failure)
    await while_away(lambda: visit.rt.together.close(closing))
