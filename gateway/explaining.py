"""Why a job is where it is, in a sentence that says no more than what is known."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from gateway.pools import Gate, gate_of
from llmgine_workers import clock
from llmgine_workers.ledger import overview, views
from llmgine_workers.ledger.overview import PoolSeen
from llmgine_workers.ledger.views import OpenStep
from llmgine_workers.runtime import Runtime

UNSEEN_S = 10
"""A scheduler looks at each pool every 0.1 s; after so long there is none."""

CHANGES = {
    "limit": "it goes sooner if running calls use less than they reserved, or if the "
    "limit is raised",
    "budget": "it goes sooner if running calls cost less than they reserved, or if the "
    "amount is raised",
    "breaker": "a probe that is answered lets it go on, and no other call is made before",
    "provider_pause": "only the provider could have named another time",
    "retry": "then it is tried again by itself",
    "paused": "`llmgine pools resume {pool}` lets it go on at once",
    "event": "the event lets it go on at once",
    "timer": "nothing but the end of the job ends it sooner",
}
"""For every reason to wait: what would change it."""

USUAL = ("first choice", None)
"""Whose model needs no word."""

_GATES = {
    "provider_pause": "its provider asked for a pause",
    "breaker": "its provider failed repeatedly",
}


async def explained(rt: Runtime, tenant: str, job: UUID) -> dict[str, Any] | None:
    """`{sentence, waiting}` of a tenant's job; None if it has no such job."""
    shown = await views.job(rt.ledger, tenant, job)
    if shown is None:
        return None
    step = await views.open_step(rt.ledger, job)
    if step is None:
        return {"sentence": ended(shown), "waiting": None}
    parts = [ending(step) if step.ending else await _of_step(rt, step)]
    if step.why not in USUAL:
        parts.append(f"Its model is {step.model}, {step.why}.")
    if step.others:
        parts.append(f"{_count(step.others, 'other step')} not finished either.")
    return {"sentence": " ".join(parts), "waiting": shown["waiting"]}


async def _of_step(rt: Runtime, step: OpenStep) -> str:
    if step.state == "running":
        return running(step)
    if step.state == "waiting":
        return waiting(step)
    seen = (await overview.pools_seen(rt.ledger)).get(step.pool)
    return queued(step, seen, await gate_of(rt, step.pool))


def ended(job: dict[str, Any]) -> str:
    """A job that is at its end, or about to be shown there."""
    at, state = job["finished_at"], job["state"]
    if state == "failed":
        error = job["error"]
        where = f" at step {error['step']}" if error["step"] else ""
        letter = f" (dead letter {job['dead_letter']})" if job["dead_letter"] else ""
        why = f"{error['code']}: {error['message']}"
        return f"The job failed{where} at {at}{letter}: {why}"
    if state == "cancelled":
        return f"The job was cancelled at {at}."
    if state == "succeeded":
        return f"The job succeeded at {at}."
    return "The job is between two steps."


def ending(step: OpenStep) -> str:
    """An end that is decided while calls are still running."""
    since = f"; step {step.path} is being stopped" if step.state == "running" else ""
    return f"The job is to end as {step.ending}{since}."


def running(step: OpenStep) -> str:
    """A call is under way."""
    return (
        f"Step {step.path} has been running in the pool {step.pool} since "
        f"{clock.rfc3339(step.since)}, in call {step.calls}."
    )


def waiting(step: OpenStep) -> str:
    """A gate refused it, a try failed, or it is there to wait."""
    change = CHANGES.get(step.reason or "", "").format(pool=step.pool)
    return (
        f"Step {step.path} waits from {clock.rfc3339(step.since)} until "
        f"{clock.rfc3339(step.until)} ({step.reason}): {step.detail}; {change}."
    )


def queued(step: OpenStep, seen: PoolSeen | None, gate: Gate) -> str:
    """It could begin; what is known of why it has not."""
    head = f"Step {step.path} is queued for the pool {step.pool}"
    return f"{head}, ready since {clock.rfc3339(step.since)}: {_why(step, seen, gate)}."


def _why(step: OpenStep, seen: PoolSeen | None, gate: Gate) -> str:
    if seen is None:
        return "no scheduler has looked at this pool yet"
    unseen_s = (seen.at - seen.ticked_at).total_seconds()
    if seen.paused_at:
        return paused(seen)
    if unseen_s > UNSEEN_S:
        return f"no scheduler has looked at this pool for {unseen_s:.0f} s"
    if not seen.workers:
        return "no live worker serves it"
    return _turn(step, seen, gate)


def _turn(step: OpenStep, seen: PoolSeen, gate: Gate) -> str:
    if gate.state in _GATES:
        until = clock.rfc3339(gate.until)
        when = f"closed until {until}" if until else "closed while one probe is made"
        return f"{_GATES[gate.state]}, and its gate is {when}"
    if step.is_released:
        why = "its workers were told of it and take it in turn"
    elif seen.backlogged:
        why = (
            "steps of a higher priority, other tenants in their turn, or older jobs "
            "go first (not counted)"
        )
    else:
        why = "the scheduler is about to release it"
    if gate.state == "unknown":
        why += "; whether its gate is open is not known while Redis is away"
    return why


def paused(seen: PoolSeen) -> str:
    """A person's word, which only a person takes back."""
    why = f" ({seen.paused_reason})" if seen.paused_reason else ""
    return (
        f"an operator paused the pool at {clock.rfc3339(seen.paused_at)}{why}; "
        f"`llmgine pools resume {seen.pool}` lets it go on"
    )


def _count(number: int, noun: str) -> str:
    return f"1 {noun} is" if number == 1 else f"{number} {noun}s are"
