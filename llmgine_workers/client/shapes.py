"""What a gateway answers, as typed values.

Fields that a newer gateway adds are kept, so an older client goes on reading it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, PlainSerializer

ENDS = ("succeeded", "failed", "cancelled")
"""The states of a job that nothing but a replay leaves."""


def rfc3339(moment: datetime) -> str:
    """UTC with milliseconds, as the gateway writes it. ValueError without a zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone: use datetime.now(UTC)")
    written = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return written.replace("+00:00", "Z")


Moment = Annotated[datetime, PlainSerializer(rfc3339, when_used="json")]
Item = TypeVar("Item")


class Shape(BaseModel):
    """A frozen value read from JSON."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def document(self) -> dict[str, Any]:
        """The JSON it was read from, as plain values."""
        return self.model_dump(mode="json", exclude_unset=True)


class Failure(Shape):
    """Why a job, a step or an attempt failed."""

    code: str
    message: str
    step: str | None = None
    attempts: int = 0
    exhausted: bool = False
    model: str | None = None
    status: int | None = None
    request_id: str | None = None


class Waiting(Shape):
    """Why nothing happens: a reason, a sentence about it, and since and until when."""

    reason: str
    detail: str | None = None
    since: Moment | None = None
    until: Moment | None = None


class ChainVersion(Shape):
    """Which chain, to the letter."""

    name: str
    version: str


class Progress(Shape):
    """Steps by state; `total` also counts those that are not ready yet."""

    total: int
    queued: int
    running: int
    waiting: int
    succeeded: int
    failed: int
    skipped: int
    cancelled: int


class Usage(Shape):
    """Model calls and their tokens."""

    calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class Options(Shape):
    """How the job runs."""

    priority: str
    timeout_s: float
    max_attempts: int
    max_cost_usd: float | None
    stream: bool
    webhook: str | None


class Job(Shape):
    """A job as it stood when the gateway answered. Unknown costs are None."""

    id: str
    tenant: str
    batch: str | None
    forked_from: str | None
    replays: int
    dead_letter: str | None
    chain: ChainVersion
    metadata: dict[str, str]
    simulated: bool
    state: str
    waiting: Waiting | None
    inputs: Any
    output: Any
    error: Failure | None
    progress: Progress
    usage: Usage
    cost_usd: float | None
    possible_duplicate_usd: float | None
    options: Options
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    deadline_at: Moment
    links: dict[str, str]

    @property
    def ended(self) -> bool:
        """Whether it succeeded, failed or was cancelled."""
        return self.state in ENDS


class Attempt(Shape):
    """One physical call."""

    id: str
    n: int
    state: str
    model: str | None
    status: int | None
    request_id: str | None
    error: Failure | None
    cost_usd: float | None
    started_at: Moment
    first_token_at: Moment | None
    finished_at: Moment | None


class Step(Shape):
    """A step. Lists leave out `attempts`; `request` needs the scope `payloads`."""

    path: str
    kind: str
    pool: str
    state: str
    waiting: Waiting | None
    fence: int
    crashes: int
    error: Failure | None
    output: Any
    text: str | None
    finish_reason: str | None
    model: str | None
    why: str | None
    usage: Usage
    cost_usd: float | None
    simulated: bool
    attempts: tuple[Attempt, ...] = ()
    request: dict[str, Any] | None = None


class Batch(Shape):
    """Jobs that were submitted together; `counts` has a number for each job state."""

    id: str
    total: int
    counts: dict[str, int]
    cost_usd: float | None
    created_at: Moment


class Explanation(Shape):
    """Why a job is where it is, in a sentence for people."""

    sentence: str
    waiting: Waiting | None


class Chain(Shape):
    """A chain that can be submitted by name; `inputs` are JSON Schemas."""

    name: str
    version: str
    description: str
    inputs: dict[str, Any]


class Page(Shape, Generic[Item]):
    """A part of a list, and where the next part begins: None after the last one."""

    data: tuple[Item, ...]
    next_cursor: str | None


class Finding(Shape):
    """One thing to mend in a request, and where: a JSON pointer."""

    pointer: str
    code: str
    detail: str
    limit: float | None = None
    suggestion: str | None = None
    line: int | None = None
    column: int | None = None
