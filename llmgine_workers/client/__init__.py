"""The Python client: submit jobs, wait for them, follow them, over restarts of a gateway.

`Client` blocks, `AsyncClient` is for asyncio. Both hold the conversations of `protocol`
and only send and wait themselves. Imports nothing of the rest of the package.
"""

from llmgine_workers.client.asynchronous import AsyncClient
from llmgine_workers.client.blocking import Client
from llmgine_workers.client.calls import Work
from llmgine_workers.client.errors import (
    BadAnswer,
    ClientError,
    JobFailed,
    Refused,
    Unauthenticated,
    Unavailable,
)
from llmgine_workers.client.events import (
    Event,
    JobFinished,
    JobQueued,
    JobReplayed,
    Snapshot,
    StepDelta,
    StepEvent,
    StepFinished,
    StepQueued,
    StepRestarted,
    StepStarted,
    StepWaiting,
    StreamSnapshot,
)
from llmgine_workers.client.shapes import (
    Attempt,
    Batch,
    Chain,
    Explanation,
    Failure,
    Finding,
    Job,
    Step,
    Usage,
    Waiting,
)
from llmgine_workers.client.text import Text

__all__ = [
    "AsyncClient",
    "Attempt",
    "BadAnswer",
    "Batch",
    "Chain",
    "Client",
    "ClientError",
    "Event",
    "Explanation",
    "Failure",
    "Finding",
    "Job",
    "JobFailed",
    "JobFinished",
    "JobQueued",
    "JobReplayed",
    "Refused",
    "Snapshot",
    "Step",
    "StepDelta",
    "StepEvent",
    "StepFinished",
    "StepQueued",
    "StepRestarted",
    "StepStarted",
    "StepWaiting",
    "StreamSnapshot",
    "Text",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "Waiting",
    "Work",
]
