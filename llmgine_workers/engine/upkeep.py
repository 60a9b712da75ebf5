"""The scheduler's duties, one short function each; all safe to run twice at once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from llmgine_workers.engine import finish, tell
from llmgine_workers.engine.clean import as_json
from llmgine_workers.engine.release_gate import RoomGate
from llmgine_workers.engine.watch import Watch
from llmgine_workers.errors import Failure
from llmgine_workers.events import facts
from llmgine_workers.ledger import (
    budgets,
    overview,
    partitions,
    release,
    sweep,
    waits,
    workers,
)
from llmgine_workers.ledger.records import Billed, Claim, Finish

if TYPE_CHECKING:
    from llmgine_workers.ledger.sweep import Taken
    from llmgine_workers.resilience.admission import Admission
    from llmgine_workers.runtime import Runtime


async def release_steps(rt: Runtime, admission: Admission, pool: str) -> None:
    """Row 2."""
    window = rt.settings.broker.window
    admitted = await admission.room(pool, window)
    beside = [one for one in rt.settings.enabled_providers(rt.environ) if one != pool]
    gate = RoomGate(admission, pool, beside)
    weights = {name: tenant.weight for name, tenant in rt.settings.tenants.items()}
    released = await release.tick(rt.ledger, pool, window, admitted, gate, weights)
    if released:
        rt.hints.offer(released)


async def wake_for_budgets(rt: Runtime) -> None:
    """Row 14 for steps that wait for money, as soon as their budget has room."""
    rules = budgets.by_rule(rt.settings.limits)
    if rules:
        await budgets.wake(rt.ledger, rules)


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
    for one in watch.poll(server, observed):
        if await workers.declare_dead(rt.ledger, one.id, one.beat_no):
            await rt.events.emit(facts.WorkerStopped(one.id, one.pool))


async def take_back_lost_steps(rt: Runtime) -> None:
    """Row 12."""
    for one in await sweep.lost_steps(rt.ledger):
        if one.crashes_now >= rt.settings.steps.max_crashes:
            await _give_up(rt, one)
        elif taken := await sweep.take_back(rt.ledger, one):
            job, path, lost = one.key.job, one.key.path, one.fence
            # With the next fence, so that its late deltas are shut out at once.
            await rt.events.emit(
                facts.LeaseLost(job, path, lost),
                facts.StepRestarted(
                    job, path, one.claim.n, "worker lost", fence=lost + 1
                ),
            )
            await told(rt, taken)


async def _give_up(rt: Runtime, one: sweep.Lost) -> None:
    """The last crash: as if the step had failed by itself, with its fallback or not."""
    failure = Failure(
        "max_crashes",
        f"its worker process died {one.crashes_now} times while this step was running",
        step=one.key.path,
        attempts=one.claim.n,
        exhausted=True,
    )
    await finish.end_unclaimed(
        rt,
        Finish(one.claim, "failed", Billed(cost=None), failure=failure),
        lambda connection, state: sweep.give_up(connection, one, state, failure),
    )


async def end_waits(rt: Runtime) -> None:
    """A wait is over: its step has succeeded, and what comes after it may begin."""
    output = as_json({"output": None, "text": None, "model": None})
    for key in await waits.over(rt.ledger):
        nobodys = Claim(key, fence=0, attempt=key.job, n=0)
        over = Finish(nobodys, "succeeded", Billed(), output)
        await finish.end_unclaimed(rt, over, partial(waits.end, key, output))


async def settle_endings(rt: Runtime) -> None:
    """Row 16, for jobs whose last call did not end but went back to waiting."""
    for job in await sweep.idle_endings(rt.ledger):
        taken = await sweep.settle_ending(rt.ledger, job)
        if taken:
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
        await tell.stop_calls(rt, taken.key.job)
    await told(rt, taken)


async def told(rt: Runtime, taken: Taken) -> None:
    """Tell the job's end, if it ended with this."""
    if taken.job_end:
        await tell.job_ended(rt, taken.key.job, taken.letter)


async def measure(rt: Runtime) -> None:
    """The pools and the open letters, as metrics: every scheduler shows the same."""
    for seen in (await overview.pools_seen(rt.ledger)).values():
        numbers = {
            name: getattr(seen, name)
            for name in ("queued", "running", "waiting", "workers", "slots")
        }
        rt.metrics.pool(seen.pool, {**numbers, "oldest_s": overview.waits_s(seen)})
    rt.metrics.open_letters(await overview.open_letters(rt.ledger))


async def keep_partitions(rt: Runtime) -> None:
    """A week of days ahead, and nothing older than the settings keep."""
    await partitions.ensure(rt.ledger)
    kept = rt.settings.ledger
    await partitions.prune(rt.ledger, kept.keep, kept.keep_payloads)
