"""One job's step, from the hint to its named end."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.engine import endings, failover, pipeline, tell
from llmgine_workers.engine.outcome import Outcome, Skip, Wait
from llmgine_workers.engine.planning import parsed
from llmgine_workers.engine.visit import NotOurs, Refused, Visit
from llmgine_workers.errors import StepFailed
from llmgine_workers.events import facts
from llmgine_workers.ledger import steps
from llmgine_workers.ledger.connection import while_away
from llmgine_workers.ledger.records import Hinted, StepKey

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from llmgine_workers.worker_runtime import WorkerRuntime


async def run_step(rt: WorkerRuntime, job: UUID, path: str) -> Outcome:
    """Look at the step a hint names, and do what there is to do.

    Raises nothing that Celery should see: a ledger that is away is waited for here.
    """
    key = StepKey(job, path)
    async with rt.slots:
        if rt.draining:
            return await endings.hand_back(rt, key)
        visit = asyncio.ensure_future(_visit(rt, key))
        present = rt.presence.enter(key, visit)
        if present is None:
            visit.cancel()
            return Skip("this process is busy with it")
        try:
            return await visit
        except asyncio.CancelledError:
            return Skip(present.stop or "cancelled")
        finally:
            rt.presence.leave(key)


async def _visit(rt: WorkerRuntime, key: StepKey) -> Outcome:
    await rt.finisher.room()
    step = await while_away(lambda: rt.together.read(key))
    if step is None or not step.runnable or step.pool != rt.pool:
        return Skip("not queued here")
    async with rt.quarantine(step):
        return await _call(rt, step)


async def _call(rt: WorkerRuntime, step: Hinted) -> Outcome:
    visit = Visit(rt, step, parsed(step.request))
    try:
        try:
            answer = await pipeline.through(visit)
        finally:
            rt.presence.called(step.key)
    except NotOurs as missed:
        return Skip(str(missed))
    except Refused as refused:
        return await _refused(visit, refused)
    except StepFailed as failed:
        return await endings.failed(visit, failed)
    except Exception as bug:  # ours: the step must come to an end all the same
        log.exception("%s %s", step.key.job, step.key.path)
        return await endings.failed(visit, endings.of_bug(step.kind, bug))
    except asyncio.CancelledError:
        why = rt.presence.why_stopped(step.key)
        return await asyncio.shield(endings.stopped(visit, why))
    return await endings.succeeded(visit, answer)


async def _refused(visit: Visit, refused: Refused) -> Outcome:
    rt, key = visit.rt, visit.step.key
    elsewhere = await failover.around_gate(visit, refused)
    if elsewhere:
        return elsewhere
    if visit.claim:
        return await endings.refused_again(visit, refused)
    await while_away(
        lambda: steps.wait(rt.ledger, key, refused.delay_s, refused.reason, str(refused))
    )
    until = clock.now() + timedelta(seconds=refused.delay_s)
    waiting = tell.waiting(refused.reason, str(refused), until)
    await rt.events.emit(facts.StepWaiting(key.job, key.path, waiting))
    return Wait(refused.reason, until)
