"""The exit statuses of every command: one table, from a code of the interface."""

from __future__ import annotations

from enum import IntEnum

from llmgine_workers.errors import LlmgineError


class Exit(IntEnum):
    """Those from 64 on are the ones of sysexits.h."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    PARTLY = 3
    DATA = 65
    DOWN = 69
    DEFECT = 70
    LATER = 75
    DENIED = 77
    CONFIGURATION = 78
    INTERRUPTED = 130  # what shells report after Ctrl-C


_OF_CODE = {
    "usage": Exit.USAGE,
    "job_failed": Exit.JOB_FAILED,
    "check_failed": Exit.JOB_FAILED,
    "partly_done": Exit.PARTLY,
    "configuration": Exit.CONFIGURATION,
    "internal": Exit.DEFECT,
    # A store or server is away.
    "dependency_down": Exit.DOWN,
    "ledger_unavailable": Exit.DOWN,
    "gateway_unreachable": Exit.DOWN,
    # The same command may succeed later.
    "too_many_requests": Exit.LATER,
    "tenant_queue_full": Exit.LATER,
    "budget_exhausted": Exit.LATER,
    "address_in_use": Exit.LATER,
    "already_running": Exit.LATER,
    # The key may not.
    "unauthenticated": Exit.DENIED,
    "missing_scope": Exit.DENIED,
    "provider_not_enabled": Exit.CONFIGURATION,
}


def exit_of(code: str) -> Exit:
    """The status of an error code; a refused request is bad data unless listed."""
    return _OF_CODE.get(code, Exit.DATA)


def exit_of_http(status: int) -> Exit:
    """The status for an answer that carries no code of ours."""
    if status in (401, 403):
        return Exit.DENIED
    if status == 429:
        return Exit.LATER
    return Exit.DOWN if status >= 500 else Exit.DATA


class JobFailed(LlmgineError):
    """The job that was waited for did not succeed."""

    code = "job_failed"


class PartlyDone(LlmgineError):
    """Some of several things were done."""

    code = "partly_done"


class Usage(LlmgineError):
    """The command line makes no sense."""

    code = "usage"
