"""Every way work can fail: one table of codes, and what follows from each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any


class Follows(Enum):
    """What the engine does after an error with a given code."""

    RETRY = "retry"
    WAIT = "wait"
    NEXT_MODEL = "next model, else dead"
    REPAIR = "repair, retry, then dead"
    DEAD = "dead"


FOLLOWS: dict[str, Follows] = {
    "provider_unreachable": Follows.RETRY,
    "provider_unavailable": Follows.RETRY,
    "provider_overloaded": Follows.RETRY,
    "provider_timeout": Follows.RETRY,
    "provider_bad_response": Follows.RETRY,
    "stream_cut": Follows.RETRY,
    "tool_unavailable": Follows.RETRY,
    "step_timeout": Follows.RETRY,
    "provider_rate_limited": Follows.WAIT,
    "provider_auth": Follows.NEXT_MODEL,
    "provider_quota": Follows.NEXT_MODEL,
    "context_too_long": Follows.NEXT_MODEL,
    "content_refused": Follows.NEXT_MODEL,
    "exceeds_limit": Follows.NEXT_MODEL,
    "output_invalid": Follows.REPAIR,
    "provider_rejected": Follows.DEAD,
    "tool_failed": Follows.DEAD,
    "tool_not_granted": Follows.DEAD,
    "template_failed": Follows.DEAD,
    "expression_failed": Follows.DEAD,
    "too_large": Follows.DEAD,
    "budget_exhausted": Follows.DEAD,
    "job_timeout": Follows.DEAD,
    "max_crashes": Follows.DEAD,
    "loop_limit": Follows.DEAD,
    "unprocessable": Follows.DEAD,
}


@dataclass(frozen=True)
class Failure:
    """The `error` of a job, step, attempt and letter: one shape everywhere."""

    code: str
    message: str
    step: str | None = None
    attempts: int = 0
    exhausted: bool = False
    model: str | None = None
    status: int | None = None
    request_id: str | None = None

    @property
    def follows(self) -> Follows:
        """What the engine does next."""
        return FOLLOWS[self.code]

    def at(self, step: str, attempts: int, *, exhausted: bool) -> Failure:
        """The same failure, told as the end of a step."""
        return replace(self, step=step, attempts=attempts, exhausted=exhausted)

    def as_dict(self) -> dict[str, Any]:
        """The public JSON object."""
        return asdict(self)


class LlmgineError(Exception):
    """A refusal that people read: a code of the interface and one sentence."""

    code = "internal"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        if code:
            self.code = code


class Refusal(LlmgineError):
    """A request that cannot be accepted: a code of the interface, and all findings.

    A finding is `{"pointer", "code", "detail"}`, with `limit` or `suggestion` if it
    has one.
    """

    def __init__(
        self, code: str, detail: str, findings: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__(detail, code)
        self.findings = tuple(findings)


class ConfigurationError(LlmgineError):
    """The settings or the stores are not as they must be: exit status 78."""

    code = "configuration"


class DependencyDown(LlmgineError):
    """A store or server does not answer: exit status 69."""

    code = "dependency_down"


class StepFailed(LlmgineError):
    """One attempt failed for a reason of the table above."""

    def __init__(
        self,
        failure: Failure,
        *,
        retry_after_s: float | None = None,
        before_first_byte: bool = False,
    ) -> None:
        super().__init__(failure.message, failure.code)
        self.failure = failure
        self.retry_after_s = retry_after_s
        self.before_first_byte = before_first_byte
