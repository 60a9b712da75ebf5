"""One log line per fact: ids, states and codes, never a prompt, a payload or a key."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import orjson

from llmgine_workers import clock
from llmgine_workers.errors import Failure
from llmgine_workers.events.facts import Fact, LimitRefused, StepDelta, StreamSnapshot
from llmgine_workers.llm import Usage

NAMED = (
    *("job", "step", "pool", "provider", "kind", "attempt", "id", "model", "state"),
    *("worker", "fence", "letter", "dead_letter", "replay", "reason", "code", "count"),
    *("resolution", "by", "seconds", "usage", "cost_usd", "error", "rule", "excess"),
)
"""All that a line may hold: a list of what is allowed, so a new field cannot leak."""
GATHER_S = 0.05
"""Lines of so long are one write: each is a system call, 7 % of a busy worker's CPU."""
TOO_MANY = (StepDelta, StreamSnapshot, LimitRefused)


def to_stderr(lines: str) -> None:
    """Write lines where containers are read."""
    sys.stderr.write(lines + "\n")


class LogLines:
    """The handler behind `telemetry.logs`: `json` for machines, `console` for people."""

    def __init__(
        self,
        style: Literal["json", "console"],
        write: Callable[[str], None] = to_stderr,
    ) -> None:
        self._line = _json if style == "json" else _console
        self._write = write
        self._held: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def wants(self, kind: type[Fact]) -> bool:
        """All but those that come many times a second."""
        return not issubclass(kind, TOO_MANY)

    async def handle(self, facts: Sequence[Fact]) -> None:
        """A line for each, written in a moment."""
        self._held += map(self._line, facts)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(GATHER_S, self._write_held)

    async def close(self) -> None:
        """Write what is held."""
        if self._timer is not None:
            self._timer.cancel()
            self._write_held()

    def _write_held(self) -> None:
        lines, self._held, self._timer = self._held, [], None
        self._write("\n".join(lines))


def _named(fact: Fact) -> dict[str, Any]:
    found = {name: getattr(fact, name, None) for name in NAMED}
    return {name: _safe(value) for name, value in found.items() if value is not None}


def _safe(value: Any) -> Any:
    if isinstance(value, Failure):
        # Its message may quote what a provider or a template saw.
        return {
            "code": value.code,
            "status": value.status,
            "request_id": value.request_id,
            "exhausted": value.exhausted,
        }
    if isinstance(value, Usage):
        return {"input_tokens": value.input_tokens, "output_tokens": value.output_tokens}
    return value if isinstance(value, (int, float, bool)) else str(value)


def _json(fact: Fact) -> str:
    head = {"at": clock.rfc3339(fact.at), "event": fact.type}
    return orjson.dumps({**head, **_named(fact)}).decode()


def _console(fact: Fact) -> str:
    words = [f"{fact.at:%H:%M:%S} {fact.type:<17}"]
    for name, value in _named(fact).items():
        if isinstance(value, dict):
            value = "/".join(str(part) for part in value.values() if part)
        words.append(f"{name}={value}")
    return " ".join(words)
