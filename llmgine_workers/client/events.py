"""What happens to a job, one type for each public fact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmgine_workers.client.answers import read
from llmgine_workers.client.errors import BadAnswer
from llmgine_workers.client.shapes import (
    ChainVersion,
    Failure,
    Job,
    Moment,
    Shape,
    Step,
    Usage,
    Waiting,
)


class Event(Shape):
    """Something that happened; of this very class if the client does not know its type.

    `seq` counts from 1 for each job; hand it to `stream(after=...)` to go on from here.
    """

    type: str
    seq: int
    job: str
    at: Moment


class JobQueued(Event):
    """The job was stored."""

    chain: ChainVersion
    metadata: dict[str, str]


class StepEvent(Event):
    """Something that happened to one step."""

    step: str


class StepQueued(StepEvent):
    """The step is ready to run."""

    kind: str
    pool: str


class StepStarted(StepEvent):
    """A worker began an attempt. `model` is None for tools."""

    attempt: int
    model: str | None


class StepWaiting(StepEvent):
    """It is held back, and why."""

    waiting: Waiting


class StepDelta(StepEvent):
    """A piece of the answer: one of `text`, `reasoning` and `tool_call`."""

    attempt: int
    text: str | None = None
    reasoning: str | None = None
    tool_call: dict[str, Any] | None = None


class StepRestarted(StepEvent):
    """Forget the deltas of this step: another attempt begins anew."""

    attempt: int
    reason: str


class StepFinished(StepEvent):
    """It ended; `text` and `output` stand in place of the deltas."""

    state: str
    output: Any
    text: str | None
    model: str | None
    usage: Usage | None
    cost_usd: float | None
    error: Failure | None


class JobFinished(Event):
    """The job ended; the last event unless somebody replays it."""

    state: str
    output: Any
    error: Failure | None
    usage: Usage | None
    cost_usd: float | None
    dead_letter: str | None


class JobReplayed(Event):
    """The job goes on from that step."""

    step: str
    replay: str


class Snapshot(Shape):
    """The job and those of its steps that have ended."""

    job: Job
    steps: tuple[Step, ...]


class StreamSnapshot(Event):
    """Earlier events are gone; this stands in place of all that was heard."""

    snapshot: Snapshot | None


KINDS: Mapping[str, type[Event]] = {
    "job.queued": JobQueued,
    "step.queued": StepQueued,
    "step.started": StepStarted,
    "step.waiting": StepWaiting,
    "step.delta": StepDelta,
    "step.restarted": StepRestarted,
    "step.finished": StepFinished,
    "job.finished": JobFinished,
    "job.replayed": JobReplayed,
    "stream.snapshot": StreamSnapshot,
}


def event_of(document: object) -> Event:
    """The event of a frame's JSON; BadAnswer if it is none."""
    if not isinstance(document, dict):
        raise BadAnswer("an event must be a JSON object")
    return read(KINDS.get(str(document.get("type")), Event), document)
