"""Failover: which model of a step's list comes next, and when (row 9).

A model that failed the step for good is given up and never tried again. A model whose
gate is shut is left for one whose gate is open, and may be come back to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgine_workers.engine.bounds import demand_of
from llmgine_workers.engine.outcome import Failover
from llmgine_workers.engine.visit import Refused, Visit
from llmgine_workers.errors import Failure
from llmgine_workers.events import facts
from llmgine_workers.ledger import failover
from llmgine_workers.ledger.connection import while_away
from llmgine_workers.ledger.failover import Move
from llmgine_workers.ledger.records import Finish

if TYPE_CHECKING:
    from llmgine_workers.resilience.admission import Admission
    from llmgine_workers.runtime import Runtime


async def after_failure(visit: Visit, failure: Failure) -> Failover | None:
    """The model failed for good: the next one, or None if there is none (or no time)."""
    models = _others(visit)
    if not models or visit.seconds_left <= 0:
        return None
    move = _move(visit, models[0], f"after {visit.step.model}: {failure.code}")
    if visit.claim:
        finish = Finish(visit.claim, "failed", visit.billed, failure=failure)
        moved = await while_away(
            lambda: failover.after_failure(visit.rt.ledger, finish, move)
        )
    else:
        moved = await _before_call(visit, move, for_good=True)
    return await _told(visit, move, failure.code, moved=moved)


async def around_gate(visit: Visit, refused: Refused) -> Failover | None:
    """The gate of the model is shut: the first other one whose gate is open, if any."""
    patience = visit.rt.settings.steps.failover_after
    if refused.reason != "breaker" and refused.delay_s <= patience:
        return None
    for model in _others(visit):
        if visit.rt.pools.paused(model.partition("/")[0]):
            continue
        if await _has_room(visit, model):
            why = f"instead of {visit.step.model}: {refused.reason}"
            move = _move(visit, model, why)
            moved = await _for_now(visit, move)
            return await _told(visit, move, refused.reason, moved=moved)
    return None


async def empty_shut_pool(rt: Runtime, admission: Admission, pool: str) -> None:
    """Held steps of a pool without room go where there is some, if their list says so.

    At once those of a model with an open breaker, else after `steps.failover_after`.
    """
    paused = rt.pools.paused(pool) is not None
    broken = {} if paused else await admission.shut(pool)
    if not paused and not broken and await admission.room(pool, 1):
        return
    patience = 0.0 if broken else rt.settings.steps.failover_after
    why = f"{'paused' if paused else 'breaker' if broken else 'no room'} at "
    room = await _room_elsewhere(rt, admission, pool)
    moved = await failover.away_from(
        rt.ledger, pool, room, patience, why, only=list(broken) or None
    )
    for one in moved:
        key = one.key
        await rt.events.emit(
            facts.StepFailedOver(key.job, key.path, one.model, why + one.old)
        )


async def _room_elsewhere(rt: Runtime, admission: Admission, pool: str) -> dict[str, int]:
    enabled = rt.settings.enabled_providers(rt.environ)
    others = [p for p in enabled if p != pool and not rt.pools.paused(p)]
    window = rt.settings.broker.window
    room = {other: await admission.room(other, window) for other in others}
    return {other: places for other, places in room.items() if places}


async def _has_room(visit: Visit, model: str) -> bool:
    step = visit.step
    demand = demand_of(model, step.tenant, visit.request, step.key)
    rooms = await visit.rt.admission.rooms(demand.provider, [step.tenant])
    return rooms.take(demand)


def _others(visit: Visit) -> list[str]:
    """The models of the step's list that are left to try, in order."""
    gone = {visit.step.model, *visit.step.given_up}
    return [model for model in visit.request.get("models", ()) if model not in gone]


def _move(visit: Visit, model: str, why: str) -> Move:
    step = visit.step
    wanted = [(model.partition("/")[0], step.priority)]
    (release,) = visit.rt.pools.release_now(step.tenant, wanted)
    return Move(model, why, release)


async def _for_now(visit: Visit, move: Move) -> bool:
    """Before any call; or when a further one is refused, as after a probe that failed."""
    if visit.claim is None:
        return await _before_call(visit, move, for_good=False)
    finish = Finish(visit.claim, "failed", visit.billed, failure=visit.failure)
    return await while_away(
        lambda: failover.after_failure(visit.rt.ledger, finish, move, spent=visit.calls)
    )


async def _before_call(visit: Visit, move: Move, *, for_good: bool) -> bool:
    key, old = visit.step.key, visit.step.model or ""
    return await while_away(
        lambda: failover.before_call(visit.rt.ledger, key, old, move, for_good=for_good)
    )


async def _told(visit: Visit, move: Move, reason: str, *, moved: bool) -> Failover | None:
    if not moved:
        return None
    rt, step = visit.rt, visit.step
    job, path = step.key.job, step.key.path
    if visit.claim:
        claim = visit.claim
        await rt.events.emit(
            facts.StepRestarted(job, path, claim.n, "failover", fence=claim.fence)
        )
    await rt.events.emit(
        facts.StepFailedOver(job, path, move.model, reason),
        facts.StepQueued(job, path, step.kind, move.pool),
    )
    rt.hints.offer(failover.released(step.key, move, step.chain, step.run))
    return Failover(move.pool, move.why)
