"""How a command ends when it fails: one sentence on stderr and an exit status."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable
from typing import Any

from llmgine_workers.cli import terminal
from llmgine_workers.cli.exits import Exit, exit_of
from llmgine_workers.errors import LlmgineError


def conclude(error: BaseException) -> Exit:
    """Say it for people, and answer the status."""
    if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
        return Exit.INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return _reader_left()
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return conclude(error.exceptions[0])
    code = getattr(error, "code", None)
    findings = getattr(error, "findings", None)
    if isinstance(error, LlmgineError) or (isinstance(code, str) and findings):
        return _told(error, code or "internal", findings or ())
    return _defect(error)


def _told(error: BaseException, code: str, findings: Iterable[Any]) -> Exit:
    problem = getattr(error, "problem", {})
    named = problem.get("errors") or findings
    told = [_sentence(finding) for finding in named]
    text = str(error)
    lines = told if told and isinstance(error, ValueError) else [text, *told]
    for line in dict.fromkeys(lines):
        terminal.note(f"llmgine: {line}")
    for hint in _hints(code, problem):
        terminal.note(hint)
    status = getattr(error, "exit", None)
    return status if isinstance(status, Exit) else exit_of(code)


def _sentence(finding: object) -> str:
    if not isinstance(finding, dict):
        return str(finding)
    place = f"{finding['pointer']}: " if finding.get("pointer") else ""
    return f"  {place}{finding.get('detail') or finding.get('code')}"


def _hints(code: str, problem: dict[str, object]) -> list[str]:
    hints = []
    if code == "unauthenticated":
        hints.append("set LLMGINE_API_KEY, or run in the directory where llmgine up runs")
    if code == "invalid_input":
        hints.append("a number, a list or an object is written -i name:=JSON")
    if problem.get("request_id"):
        hints.append(f"request {problem['request_id']}")
    return hints


def _defect(error: BaseException) -> Exit:
    """Nobody should read a stack trace, but whoever mends it needs one."""
    trace = "".join(traceback.format_exception(error))
    handle, path = tempfile.mkstemp(prefix="llmgine-defect-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        file.write(terminal.masked(trace))
    summary = " ".join(f"{type(error).__name__}: {error}".split())
    terminal.note(f"llmgine: a defect: {summary[:300]} (details: {path})")
    return Exit.DEFECT


def _reader_left() -> Exit:
    """`llmgine ... | head`: say nothing, not even at interpreter exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.OK
