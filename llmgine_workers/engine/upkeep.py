"""The scheduler's duties, one short function each; all safe to run twice at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmgine_workers.engine import tell
from llmgine_workers.engine.watch import Watch
from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.errors import Failure
from llmgine_workers.events import facts
from llmgine_workers.ledger import partitions, release, sweep, workers

if TYPE_CHECKING:
    from llmgine_workers.ledger.sweep import Taken
    from llmgine_workers.resilience.admission import Admission
    from llmgine_workers.runtime import Runtime


async def release_steps(rt: Runtime, admission: Admission, pool: str) -> None:
    """Row 2."""
    window = rt.settings.broker.window
    admitted = await admission.room(pool, window)
    released = await release.tick(rt.ledger, pool, window, admitted)
    if released:
        rt.hints.offer(released)


async def find_lost_hints(rt: Runtime, pool: str) -> None:
    """Row 3. With the broker away its depth is unknown, and nothing counts as lost."""
    depth = await rt.broker.depth(f"{rt.prefix}.{pool}")
    if depth is not None:
        await release.forget_lost_hints(rt.ledger, pool, queue_empty=depth == 0)


async def watch_workers(rt: Runtime, watch: Watch) -> None:
    """Row 19."""
    try:
        async with rt.ledger.connection() as connection:
            server, observed = await workers.observe(connection)
    except Exception:
        watch.forget()
        raise
    for one in watch.poll(server, observed, time.monotonic()):
        if await workers.declare_dead(rt.ledger, one.id, one.beat_no):
            await rt.events.emit(facts.WorkerStopped(one.id, one.pool))


async def take_back_lost_steps(rt: Runtime) -> None:
    """Row 12."""
    lost = await sweep.lost_steps(rt.ledger)
    to_blame = sweep.blamed(lost)
    for one in lost:
        taken = await sweep.take_back(
            rt.ledger,
            one,
            blame=one.key in to_blame,
            max_crashes=rt.settings.steps.max_crashes,
        )
        if taken:
            await rt.events.emit(facts.LeaseLost(one.key.job, one.key.path, one.fence))
            await told(rt, taken)


async def expire_jobs(rt: Runtime) -> None:
    """Row 15, for jobs past their deadline."""
    for job in await sweep.expired_jobs(rt.ledger):
        failure = Failure("job_timeout", "the job did not end within its timeout")
        taken = await sweep.end_job(rt.ledger, job, "failed", failure)
        if taken:
            await stop_calls(rt, taken)


async def stop_calls(rt: Runtime, taken: Taken) -> None:
    """After row 15: tell the workers, and the job's end if it has come."""
    if not taken.job_end:
        try:
            await rt.signals.cancel(taken.key.job, None)
        except EphemeralDown:
            return  # the beat tells them within 3 s
    await told(rt, taken)


async def told(rt: Runtime, taken: Taken) -> None:
    """Tell the job's end, if it ended with this."""
    if taken.job_end:
        await tell.job_ended(rt, taken.key.job, taken.letter)


async def keep_partitions(rt: Runtime) -> None:
    """A week of days ahead, and nothing older than the settings keep."""
    await partitions.ensure(rt.ledger)
    kept = rt.settings.ledger
    await partitions.prune(rt.ledger, kept.keep, kept.keep_payloads)
