"""The closed list of facts; public ones reach the stream with exactly their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.errors import Failure
from llmgine_workers.llm import Usage


@dataclass(frozen=True)
class Fact:
    """Something that happened at a moment (UTC)."""

    type: ClassVar[str]
    at: datetime = field(default_factory=clock.now, kw_only=True)


@dataclass(frozen=True)
class JobFact(Fact):
    """A public fact of one job."""

    job: UUID


@dataclass(frozen=True)
class StepFact(JobFact):
    """A public fact of one step, by its path.

    `fence` says by which claim it is known (it is not told): the stream drops what
    comes from a lower one. None: by nobody's.
    """

    step: str
    fence: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class JobQueued(JobFact):
    """The job was stored. `chain` is `{name, version}`."""

    type = "job.queued"
    chain: Mapping[str, Any]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class StepQueued(StepFact):
    """The step is ready to run."""

    type = "step.queued"
    kind: str
    pool: str


@dataclass(frozen=True)
class StepStarted(StepFact):
    """A worker claimed it. `model` is None for tools."""

    type = "step.started"
    attempt: int
    model: str | None


@dataclass(frozen=True)
class StepWaiting(StepFact):
    """It waits: `{reason, detail, since, until}`."""

    type = "step.waiting"
    waiting: Mapping[str, Any]


@dataclass(frozen=True)
class StepDelta(StepFact):
    """A piece of its answer; exactly one of the three is set.

    Emitted only for jobs whose options say `stream`.
    """

    type = "step.delta"
    attempt: int
    text: str | None = None
    reasoning: str | None = None
    tool_call: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class StepRestarted(StepFact):
    """Its deltas so far are void."""

    type = "step.restarted"
    attempt: int
    reason: str


@dataclass(frozen=True)
class StepFinished(StepFact):
    """It reached its end. `cost_usd` is None if unknown."""

    type = "step.finished"
    state: str
    output: Any = None
    text: str | None = None
    model: str | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    error: Failure | None = None


@dataclass(frozen=True)
class JobFinished(JobFact):
    """The job reached its end; the last event of its stream unless it is replayed."""

    type = "job.finished"
    state: str
    output: Any = None
    error: Failure | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    dead_letter: UUID | None = None


@dataclass(frozen=True)
class JobReplayed(JobFact):
    """A person asked for it again, from that step on."""

    type = "job.replayed"
    step: str
    replay: UUID


@dataclass(frozen=True)
class StreamSnapshot(JobFact):
    """The job and its finished steps, in place of events that are gone."""

    type = "stream.snapshot"
    snapshot: Mapping[str, Any]


@dataclass(frozen=True)
class StepClaimed(Fact):
    """For handlers: a worker made a step its own."""

    type = "step.claimed"
    job: UUID
    step: str
    pool: str
    worker: UUID
    fence: int


@dataclass(frozen=True)
class StepReleased(Fact):
    """For handlers: steps of a pool went into the window."""

    type = "step.released"
    pool: str
    count: int


@dataclass(frozen=True)
class AttemptStarted(Fact):
    """For handlers: a physical call begins."""

    type = "attempt.started"
    id: UUID
    job: UUID
    step: str
    attempt: int
    model: str | None


@dataclass(frozen=True)
class AttemptFinished(Fact):
    """For handlers: a physical call ended. `answered_by` is the model that answered,
    `kind` the step's."""

    type = "attempt.finished"
    id: UUID
    job: UUID
    step: str
    attempt: int
    model: str | None
    state: str
    started_at: datetime
    first_token_at: datetime | None = None
    answered_by: str | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    error: Failure | None = None
    kind: str = "llm"


@dataclass(frozen=True)
class LimitRefused(Fact):
    """For handlers: a limit had no room; `retry_after_s` None: it never will."""

    type = "limit.refused"
    provider: str
    detail: str
    retry_after_s: float | None


@dataclass(frozen=True)
class StepFailedOver(Fact):
    """For handlers: a step goes on with another model of its list."""

    type = "step.failed_over"
    job: UUID
    step: str
    model: str
    reason: str


@dataclass(frozen=True)
class LimitOvershot(Fact):
    """For handlers: calls used more than a learned estimate had reserved of a limit."""

    type = "limit.overshot"
    provider: str
    rule: str
    excess: int


@dataclass(frozen=True)
class BudgetUsed(Fact):
    """For handlers: 50, 80 or 100 percent of a budget are spent or reserved; 100 also
    when a call found no room. Each once, until less than 50 are."""

    type = "budget.used"
    budget: str
    percent: int
    used_usd: float
    limit_usd: float


@dataclass(frozen=True)
class LimitsLocal(Fact):
    """For handlers: Redis is away; this process goes by its own share of the limits."""

    type = "limits.local"
    reason: str


@dataclass(frozen=True)
class LimitsShared(Fact):
    """For handlers: Redis is back; the limits are those of all workers again."""

    type = "limits.shared"


@dataclass(frozen=True)
class GateClosed(Fact):
    """For handlers: calls stop, of a provider (`provider_pause`) or of one of its models
    (`breaker`), named `provider/model`."""

    type = "gate.closed"
    provider: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class GateOpened(Fact):
    """For handlers: calls of a provider go again."""

    type = "gate.opened"
    provider: str
    reason: str


@dataclass(frozen=True)
class LeaseLost(Fact):
    """For handlers: a running step was taken from this worker."""

    type = "lease.lost"
    job: UUID
    step: str
    fence: int


@dataclass(frozen=True)
class PublishFailed(Fact):
    """For handlers: hints were not confirmed; the scheduler sends them again."""

    type = "publish.failed"
    pool: str
    count: int
    reason: str


@dataclass(frozen=True)
class LetterRecorded(Fact):
    """For handlers: a dead letter was written."""

    type = "letter.recorded"
    letter: UUID
    job: UUID | None
    step: str | None
    code: str


@dataclass(frozen=True)
class LetterResolved(Fact):
    """For handlers: a dead letter was replayed or discarded, by whom."""

    type = "letter.resolved"
    letter: UUID
    job: UUID | None
    resolution: str
    by: str


@dataclass(frozen=True)
class ReplayProgress(Fact):
    """For handlers: a replay has started letters, or is over."""

    type = "replay.progress"
    replay: UUID
    state: str
    total: int
    replayed: int
    succeeded: int
    failed: int


@dataclass(frozen=True)
class WorkerFact(Fact):
    """For handlers: something about one worker process."""

    worker: UUID
    pool: str


@dataclass(frozen=True)
class WorkerStarted(WorkerFact):
    """It takes hints."""

    type = "worker.started"


@dataclass(frozen=True)
class WorkerDraining(WorkerFact):
    """SIGTERM: it finishes what it has."""

    type = "worker.draining"


@dataclass(frozen=True)
class WorkerStopped(WorkerFact):
    """It is gone."""

    type = "worker.stopped"


INTERNAL = ("fence",)
"""Fields of public facts that the stream goes by and does not show."""


def as_public(fact: JobFact, seq: int) -> dict[str, Any]:
    """The event as clients see it (interface section 6)."""
    return {"type": fact.type, "seq": seq, **public_fields(fact)}


def public_fields(fact: JobFact) -> dict[str, Any]:
    """The same without `type` and `seq`, which the stream adds when it numbers it."""
    found = {"job": str(fact.job), "at": clock.rfc3339(fact.at)}
    for entry in fields(fact):
        value = getattr(fact, entry.name)
        if (
            entry.name in INTERNAL
            or entry.name in found
            or (value is None and isinstance(fact, StepDelta))
        ):
            continue
        found[entry.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Failure):
        return value.as_dict()
    if isinstance(value, Usage):
        return vars(value)
    return value
