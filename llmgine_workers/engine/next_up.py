"""What a job's chain says is next, from all that the ledger knows of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import orjson

from chains import Cause, Chain, JobFacts, Plan, StepResult, plan
from chains.steps import counts_money
from llmgine_workers.errors import Failure
from llmgine_workers.ledger import history
from llmgine_workers.ledger.connection import Connection
from llmgine_workers.ledger.history import History, Past
from llmgine_workers.ledger.records import LockedJob


async def read(
    connection: Connection, chains: Mapping[UUID, Chain]
) -> dict[UUID, History]:
    """What `replayed` needs of jobs, on the connection that has locked them."""
    counting = [job for job, chain in chains.items() if counts_money(chain)]
    return await history.read(connection, chains.keys(), with_costs=counting)


def replayed(job: LockedJob, chain: Chain, past: History) -> Plan:
    """The chain, replayed over what is behind its job."""
    results = {path: _result(step) for path, step in past.ended.items()}
    about = JobFacts(str(job.id), dict(job.metadata))
    inputs = orjson.loads(past.inputs or "{}")
    return plan(chain, inputs, results, about, past.known)


def failure_of(
    causes: Collection[Cause], past: History, just_now: Collection[str]
) -> Failure:
    """What ends the job: of several failures one that has just come in."""
    cause = next((cause for cause in causes if cause.step in just_now), None)
    if cause is None:
        cause = next(iter(causes))
    step = past.ended.get(cause.step)
    if step and step.failure:
        return Failure(**step.failure)
    return Failure(cause.code, f"{cause.step}: {cause.message}", step=cause.step)


def _result(step: Past) -> StepResult:
    stored: Mapping[str, Any] = orjson.loads(step.output) if step.output else {}
    return StepResult(
        step.state,
        stored.get("output"),
        stored.get("text"),
        stored.get("model"),
        step.failure,
        step.cost,
    )
