"""A child process that cannot outlive its owner, however the owner ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

GRACE_S = 15
"""Seconds a server gets to stop cleanly before it is killed."""

_GUARD = r"""
trap '' INT TERM HUP
read -r pid || exit 0
read -r _
kill -s "$0" "$pid" || exit 0
for _ in $(seq "$1"); do kill -0 "$pid" || exit 0; sleep 1; done
kill -s KILL -- "-$pid"
"""
# Its standard input is a pipe that only the owner holds: at the owner's end, be it
# SIGKILL, `read` returns. A prctl death signal would follow the starting *thread*.


class User(NamedTuple):
    """Whom a server runs as."""

    uid: int
    gid: int


def taking_on(user: User | None) -> dict[str, Any]:
    """The arguments of `subprocess` for it; the groups of root stay behind."""
    if user is None:
        return {}
    return {"user": user.uid, "group": user.gid, "extra_groups": []}


@dataclass(frozen=True)
class Command:
    """What to run: `user` (its id and group) is taken on if given; only root can."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    user: User | None = None


class GuardedProcess:
    """A running command in its own session, so that Ctrl-C reaches only its owner."""

    def __init__(self, command: Command) -> None:
        self._stop_signal = command.stop_signal
        self._guard = subprocess.Popen(  # noqa: S603 - our own script
            ["/bin/sh", "-c", _GUARD, command.stop_signal.name[3:], str(GRACE_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._process = _spawn(command)
        except BaseException:
            self._dismiss_guard()
            raise
        self._tell_guard(self._process.pid)

    def _tell_guard(self, pid: int) -> None:
        assert self._guard.stdin is not None  # noqa: S101 - opened above
        self._guard.stdin.write(f"{pid}\n".encode())
        self._guard.stdin.flush()

    def _dismiss_guard(self) -> None:
        self._guard.kill()
        self._guard.wait()
        assert self._guard.stdin is not None  # noqa: S101 - opened above
        self._guard.stdin.close()

    @property
    def pid(self) -> int:
        """The process id, also the id of its process group."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to end; after `GRACE_S` seconds kill it."""
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._kill_group()
        self._dismiss_guard()

    def kill(self) -> None:
        """End it as a crash would: no farewell, nothing flushed."""
        self._kill_group()
        self._dismiss_guard()

    def _kill_group(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _spawn(command: Command) -> subprocess.Popen[bytes]:
    with command.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - servers named by this package
            list(command.argv),
            env=dict(command.env),
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **taking_on(command.user),
        )
