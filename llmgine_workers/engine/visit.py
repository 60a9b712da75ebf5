"""One visit of a worker to a step: what its gates read and fill in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chains.chain import CALLING
from llmgine_workers import clock
from llmgine_workers.errors import Failure, LlmgineError
from llmgine_workers.ledger.budgets import Budget, budgets_of
from llmgine_workers.ledger.records import Billed, Claim, Hinted, StepKey
from llmgine_workers.llm import Embedded, LlmAnswer
from llmgine_workers.resilience.admission import Admitted

if TYPE_CHECKING:
    from llmgine_workers.worker_runtime import WorkerRuntime


class Refused(LlmgineError):
    """A gate said no before the call: come back after `delay_s` seconds."""

    def __init__(self, reason: str, detail: str, delay_s: float) -> None:
        super().__init__(detail, reason)
        self.reason = reason
        self.delay_s = delay_s


class NotOurs(LlmgineError):
    """The claim missed: another has the step, or it is ending."""


@dataclass(frozen=True)
class Answer:
    """What a step produced: its output, and for a model its text beside it."""

    output: Any
    text: str | None = None
    model: str | None = None
    finish_reason: str | None = None


@dataclass
class Visit:
    """The step, the request in it, and what this visit has done so far."""

    rt: WorkerRuntime
    step: Hinted
    request: Mapping[str, Any]
    claim: Claim | None = None
    admitted: Admitted | None = None
    billed: Billed = field(default_factory=Billed)
    failure: Failure | None = None
    answered: LlmAnswer | Embedded | None = None
    received_bytes: int = 0
    first_token_at: datetime | None = None
    calls: int = 0
    started_at: datetime = field(default_factory=clock.now)
    call_ends: float | None = None

    def opened(self, claim: Claim) -> None:
        """A further attempt; the time of the claim bounds them all."""
        self.claim = claim
        self.calls += 1
        self.started_at = clock.now()
        if self.call_ends is None:
            self.call_ends = time.monotonic() + self.step.timeout_s

    def start_call(self) -> None:
        """Forget what an earlier call of this visit left behind."""
        self.billed, self.failure = Billed(), None
        self.answered, self.received_bytes, self.first_token_at = None, 0, None

    @property
    def held(self) -> Claim:
        """The claim; only behind the attempt gate."""
        if self.claim is None:
            raise AssertionError("no gate lets an unclaimed step through to its call")
        return self.claim

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The budgets of the settings that count this call."""
        if self.step.kind not in CALLING:
            return ()
        limits = self.rt.settings.limits
        return budgets_of(limits, self.step.tenant, self.step.model or "")

    @property
    def is_budgeted(self) -> bool:
        """Whether it must be known before the call what it can cost."""
        return self.step.has_budget or bool(self.budgets)

    @property
    def seconds_left(self) -> float:
        """Until the job's deadline."""
        return (self.step.expires_at - clock.now()).total_seconds()

    @property
    def call_seconds_left(self) -> float:
        """Until the claim's time or the job's deadline, never below a millisecond."""
        ends = self.call_ends
        of_claim = self.step.timeout_s if ends is None else ends - time.monotonic()
        return max(0.001, min(of_claim, self.seconds_left))


@dataclass
class Present:
    """A step this process is busy with: its task, and why it was told to stop."""

    task: asyncio.Task[Any]
    stop: str | None = None
    is_called: bool = False


class Presence:
    """Every step this process is busy with, so that others can stop it by name."""

    def __init__(self) -> None:
        self._present: dict[StepKey, Present] = {}

    def enter(self, key: StepKey, task: asyncio.Task[Any]) -> Present | None:
        """None if this process is busy with the step already."""
        if key in self._present:
            return None
        self._present[key] = Present(task)
        return self._present[key]

    def leave(self, key: StepKey) -> None:
        """The visit is over."""
        del self._present[key]

    def called(self, key: StepKey) -> None:
        """The call is over: nothing stops the writing of its end."""
        self._present[key].is_called = True

    def stop(self, key: StepKey, why: str) -> None:
        """Cancel the step's call, if it is here; a second word changes nothing."""
        present = self._present.get(key)
        if present and not present.stop and not present.is_called:
            present.stop = why
            present.task.cancel()

    def why_stopped(self, key: StepKey) -> str | None:
        """The word that stopped a step."""
        present = self._present.get(key)
        return present.stop if present else None

    def stop_job(self, job: UUID, why: str) -> None:
        """Cancel every call of a job."""
        for key in [key for key in self._present if key.job == job]:
            self.stop(key, why)

    def stop_all(self, why: str) -> None:
        """Cancel everything."""
        for key in list(self._present):
            self.stop(key, why)

    def __contains__(self, key: StepKey) -> bool:
        return key in self._present

    def __len__(self) -> int:
        return len(self._present)
