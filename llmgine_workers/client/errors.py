"""Everything that a call of the client raises on purpose."""

from __future__ import annotations

from collections.abc import Sequence

from llmgine_workers.client.shapes import Failure, Finding, Job


class ClientError(Exception):
    """The root of them all."""


class Refused(ClientError):
    """The gateway says no, and would say it again; `findings` has all that is wrong."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        findings: Sequence[Finding] = (),
        request_id: str | None = None,
    ) -> None:
        lines = [f"{status} {code}: {detail}"]
        if len(findings) > 1:
            lines += [f"  {found.pointer} {found.detail}" for found in findings]
        super().__init__("\n".join(lines))
        self.status = status
        self.code = code
        self.detail = detail
        self.findings = tuple(findings)
        self.request_id = request_id


class Unauthenticated(Refused):
    """There is no API key, or it is unknown or revoked."""


class Unavailable(ClientError):
    """No answer, or one that says "not now"; trying later may help.

    `status` and `code` are None if there was no answer. `retry_after_s` is what the
    gateway asked for.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class BadAnswer(ClientError):
    """Something answered, but not as a gateway does: is the address right?"""


class JobFailed(ClientError):
    """A job that was waited for did not succeed.

    `error` says why; it is None if the job was cancelled. `job` is all of it.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(_sentence(job))
        self.job = job
        self.error: Failure | None = job.error


def _sentence(job: Job) -> str:
    if job.error is None:
        return f"job {job.id} was {job.state}"
    where = f" at {job.error.step}" if job.error.step else ""
    return f"job {job.id} {job.state}{where}: {job.error.code}: {job.error.message}"
