"""Child processes that are kept running: started, watched, started again, stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.local.process import Command, GuardedProcess

BACK_OFF_S = (0.5, 1.0, 2.0, 5.0, 15.0)
"""Pauses before a child that ended is started again."""

STABLE_S = 30.0
"""A child that ran this long has recovered: the next pause is the first again."""

_POLL_S = 0.2
_GIVE_UP = 3  # ends before the first readiness, after which starting has failed
_TAIL = 6  # lines of a log that tell why

Say = Callable[[str], None]


@dataclass(frozen=True)
class Role:
    """One child: what runs, and where it writes."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path


class Child:
    """One role's process, over all its lives."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.failures = 0
        self._process: GuardedProcess | None = None
        self._started = 0.0
        self._due = 0.0

    def start(self) -> None:
        """Start it; its output is appended to its log."""
        role = self.role
        role.log.parent.mkdir(parents=True, exist_ok=True)
        self._process = GuardedProcess(Command(role.argv, role.env, role.cwd, role.log))
        self._started = time.monotonic()

    def look(self, say: Say) -> None:
        """Notice an end, and start it again when its pause is over."""
        now = time.monotonic()
        if self._process is not None and self._process.exit_status is not None:
            self._note_end(now, say)
        if self._process is None and now >= self._due:
            self.start()

    def stop(self) -> None:
        """Ask it to end, wait, kill it if need be."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def tail(self) -> str:
        """The end of its log."""
        with suppress(OSError):
            text = self.role.log.read_text("utf-8", "replace")
            return "\n".join(f"  | {line}" for line in text.splitlines()[-_TAIL:])
        return ""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process else None

    def _note_end(self, now: float, say: Say) -> None:
        assert self._process is not None  # noqa: S101 - checked by look()
        status = self._process.exit_status
        self._process.kill()  # its guard is still there
        self._process = None
        self.failures = 1 if now - self._started > STABLE_S else self.failures + 1
        pause = BACK_OFF_S[min(self.failures, len(BACK_OFF_S)) - 1]
        self._due = now + pause
        say(f"{self.role.name} ended with {status}; again in {pause:g} s\n{self.tail()}")


class Children:
    """Several children; `tiers` are stopped one after the other, in this order."""

    def __init__(self, tiers: Sequence[Sequence[Role]], say: Say) -> None:
        self.tiers = [[Child(role) for role in tier] for tier in tiers]
        self._say = say

    def __iter__(self) -> Iterator[Child]:
        return (child for tier in self.tiers for child in tier)

    def start(self) -> None:
        """Start all of them."""
        for child in self:
            child.start()

    async def keep(self) -> None:
        """Watch until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_POLL_S)

    def look(self) -> None:
        """Watch once."""
        for child in self:
            child.look(self._say)

    def refuse_hopeless(self) -> None:
        """ConfigurationError, with its last words, if a child cannot even start."""
        for child in self:
            if child.failures >= _GIVE_UP:
                name, log = child.role.name, child.role.log
                raise ConfigurationError(
                    f"{name} does not start ({log}):\n{child.tail()}"
                )

    async def stop(self) -> None:
        """Stop tier by tier; the children of one at the same time."""
        for tier in self.tiers:
            await asyncio.gather(*(asyncio.to_thread(child.stop) for child in tier))

    def kill(self) -> None:
        """End all at once."""
        for child in self:
            child.kill()
