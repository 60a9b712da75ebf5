"""The shapes of interface sections 3, 5 and 6 for `/openapi.json`.

Answers are built from the ledger as plain values and not through these models; the
tests hold every answer against the schema that is made of them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from chains.chain import Kind

JobState = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled"]
StepState = Literal[
    "queued", "running", "waiting", "succeeded", "failed", "skipped", "cancelled"
]
AttemptState = Literal["started", "succeeded", "failed", "cancelled", "ambiguous"]
Reason = Literal[
    "limit", "budget", "breaker", "provider_pause", "retry", "paused", "event", "timer"
]
Usd = float | None


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Error(_Shape):
    """Why a job, step or attempt failed."""

    code: str
    message: str
    step: str | None
    attempts: int
    exhausted: bool
    model: str | None
    status: int | None
    request_id: str | None


class Waiting(_Shape):
    """Why nothing happens, and until when."""

    reason: Reason
    detail: str | None
    since: datetime
    until: datetime


class ChainVersion(_Shape):
    """Which chain, to the letter."""

    name: str
    version: str


class Progress(_Shape):
    """Steps by state; steps that are not ready yet count in `total` only."""

    total: int
    queued: int
    running: int
    waiting: int
    succeeded: int
    failed: int
    skipped: int
    cancelled: int


class Usage(_Shape):
    """Model calls and their tokens, as the providers reported them."""

    calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int


class Options(_Shape):
    """How the job runs."""

    priority: Literal["interactive", "normal", "batch"]
    timeout_s: float
    max_attempts: int
    max_cost_usd: Usd
    stream: bool
    webhook: str | None


class Links(_Shape):
    """Where the rest is."""

    self: str
    steps: str
    events: str


class Job(_Shape):
    """A job as it stands. Unknown costs are null."""

    id: UUID
    tenant: str
    batch: UUID | None
    forked_from: UUID | None
    replays: int
    dead_letter: UUID | None
    chain: ChainVersion
    metadata: dict[str, str]
    simulated: bool
    state: JobState
    waiting: Waiting | None
    inputs: Any
    output: Any
    error: Error | None
    progress: Progress
    usage: Usage
    cost_usd: Usd
    possible_duplicate_usd: Usd
    options: Options
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime
    links: Links


class JobPage(_Shape):
    """Jobs, newest first."""

    data: list[Job]
    next_cursor: str | None


class StepSummary(_Shape):
    """A step without its attempts."""

    path: str
    kind: Kind
    pool: str
    state: StepState
    waiting: Waiting | None
    fence: int
    crashes: int
    error: Error | None
    output: Any
    text: str | None
    finish_reason: str | None
    model: str | None
    why: str | None
    usage: Usage
    cost_usd: Usd
    simulated: bool


class Attempt(_Shape):
    """One physical call."""

    id: UUID
    n: int
    state: AttemptState
    model: str | None
    status: int | None
    request_id: str | None
    error: Error | None
    cost_usd: Usd
    started_at: datetime
    first_token_at: datetime | None
    finished_at: datetime | None


class Step(StepSummary):
    """One step. `request` needs the scope `payloads`, else it is null."""

    attempts: list[Attempt]
    request: dict[str, Any] | None


class StepPage(_Shape):
    """Steps in the order they became ready."""

    data: list[StepSummary]
    next_cursor: str | None


class StreamToken(_Shape):
    """What opens one job's events until it ends."""

    token: str
    expires_at: datetime
    url: str


class Delivery(_Shape):
    """One try to deliver a webhook."""

    at: datetime
    status: int | None
    error: str | None
    ms: int


class Webhook(_Shape):
    """What a run's end owed, and how it was told."""

    run: int
    url: str
    state: Literal["pending", "delivered", "failed"]
    tries: int
    next_at: datetime | None
    give_up_at: datetime
    created_at: datetime
    finished_at: datetime | None
    log: list[Delivery]


class WebhookPage(_Shape):
    """The webhooks of a job, one per run."""

    data: list[Webhook]


class ChainSummary(_Shape):
    """A chain that can be submitted by name; `inputs` are JSON Schemas."""

    name: str
    version: str
    description: str
    inputs: dict[str, Any]


class ChainPage(_Shape):
    """Chains by name."""

    data: list[ChainSummary]
    next_cursor: str | None


class Health(_Shape):
    """All is well, or there is a problem instead."""

    status: Literal["ok"]


class Finding(_Shape):
    """One thing to mend, and where: a JSON pointer, or `/query/...`, `/header/...`."""

    pointer: str
    code: str
    detail: str
    limit: float | None = None
    suggestion: str | None = None
    line: int | None = None
    column: int | None = None


class Problem(_Shape):
    """A refused request (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: UUID
    errors: list[Finding] = Field(description="everything that is wrong, at once")


class Counts(_Shape):
    """Jobs by state."""

    queued: int
    running: int
    waiting: int
    succeeded: int
    failed: int
    cancelled: int


class Batch(_Shape):
    """Jobs that were accepted together; `GET /v1/jobs?batch=` lists them."""

    id: UUID
    total: int
    counts: Counts
    cost_usd: Usd
    created_at: datetime


class Explanation(_Shape):
    """Why a job is where it is."""

    sentence: str
    waiting: Waiting | None


class PoolGate(_Shape):
    """Whether calls of this pool may start; `unknown` while Redis is away."""

    state: Literal["open", "provider_pause", "breaker", "unknown"]
    until: datetime | None


class Paused(_Shape):
    """An operator's word that no call of the pool may begin."""

    since: datetime
    reason: str | None


class Pool(_Shape):
    """The workers of one queue, and their work over all tenants.

    `credit`: how many more steps may be published; `backlogged`: some are held, or wait
    for a limit.
    """

    pool: str
    workers: int
    slots: int
    credit: int
    backlogged: bool
    queued: int
    running: int
    waiting: int
    gate: PoolGate
    paused: Paused | None
    seen_at: datetime | None = Field(description="by a scheduler; null: never")
    counted_at: datetime | None


class PoolPage(_Shape):
    """Pools by name."""

    data: list[Pool]
    next_cursor: str | None


class Letter(_Shape):
    """A dead letter; a raw message's has neither job nor tenant."""

    id: UUID
    state: Literal["open", "resolved", "ignored"]
    job: UUID | None
    tenant: str | None
    chain: str | None
    step: str | None
    pool: str | None
    error: Error
    fingerprint: str
    replays: int
    cost_usd: Usd
    task_id: UUID | None
    raw: str | None
    created_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: Literal["replayed", "discarded"] | None


class LetterPage(_Shape):
    """Letters, newest first; of raw messages only the beginning."""

    data: list[Letter]
    next_cursor: str | None


class LetterAttempt(Attempt):
    """A call of the run that failed."""

    step: str


class WholeLetter(Letter):
    """One letter. `request` needs the scope `payloads`, else it is null."""

    attempts: list[LetterAttempt]
    request: dict[str, Any] | None


class LetterGroup(_Shape):
    """Letters of one fingerprint; the rest is the latest one's."""

    fingerprint: str
    count: int
    first_seen: datetime
    last_seen: datetime
    sample: UUID
    state: Literal["open", "resolved", "ignored"]
    chain: str | None
    step: str | None
    pool: str | None
    code: str
    message: str


class GroupPage(_Shape):
    """Groups, the latest first."""

    data: list[LetterGroup]
    next_cursor: None


class Closed(_Shape):
    """How many letters were closed by this request."""

    closed: int
    state: Literal["resolved", "ignored"]


class Replay(_Shape):
    """A replay and how far it has come; without an id it is only what would be."""

    id: UUID | None
    state: Literal["running", "finished", "stopped", "aborted", "dry_run"]
    reason: str | None
    total: int
    pending: int
    replayed: int
    succeeded: int
    failed: int
    cancelled: int
    refused: int
    calls: int | None
    estimated_usd: Usd = Field(description="at the most; null: unknown")
    rate: float
    canary: int
    stop_if_fail: float | None
    asked: dict[str, Any]
    edit: dict[str, Any] | None
    asked_by: str
    created_at: datetime | None
    finished_at: datetime | None


ALL = (
    Closed, GroupPage, LetterPage, Replay, WholeLetter,
    Batch, ChainPage, Explanation, Health, Job, JobPage, PoolPage, Problem, Step,
    StepPage, StreamToken, WebhookPage,
)  # fmt: skip
