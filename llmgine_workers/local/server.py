"""What the embedded servers share: a directory, a port, a secret, start and stop."""

from __future__ import annotations

import random
import secrets
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from llmgine_workers.errors import DependencyDown
from llmgine_workers.local.process import Command, GuardedProcess

LOOPBACK = "127.0.0.1"
_PORTS = range(15_000, 32_000)  # below Linux' ephemeral ports, so a port stays ours
_POLL_S = 0.02
_SYSTEM_RANDOM = random.SystemRandom()  # tests seed the global one alike everywhere


class LocalServer(ABC):
    """A private server under `data_dir`; `start()` again keeps port and password.

    `port` is chosen at the first start unless it is given. DependencyDown, with the
    end of the server's log, if it does not answer within `start_timeout_s`.
    """

    name: str
    start_timeout_s: float = 60.0

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self._process: GuardedProcess | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, with the password inside."""

    @abstractmethod
    def _prepare(self) -> Command:
        """Write what the server reads and say how to run it."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether a client would be served now."""

    def start(self) -> None:
        """Start it and return when it answers; nothing if it runs already."""
        if self.running:
            return
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        command = self._prepare()
        self._process = GuardedProcess(command)
        try:
            self._await(self._answers, command.log)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop it cleanly and wait for its end; nothing if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def kill(self) -> None:
        """SIGKILL it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.exit_status is None

    @property
    def pid(self) -> int:
        """The process id; DependencyDown if it was not started."""
        if self._process is None:
            raise DependencyDown(f"the embedded {self.name} is not running")
        return self._process.pid

    def _await(self, ready: Callable[[], bool], log: Path) -> None:
        end = time.monotonic() + self.start_timeout_s
        while not ready():
            if not self.running:
                raise DependencyDown(f"{self.name} did not start: {_tail(log)}")
            if time.monotonic() > end:
                raise DependencyDown(
                    f"{self.name} did not answer within {self.start_timeout_s:g} s: "
                    f"{_tail(log)}"
                )
            time.sleep(_POLL_S)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    for port in _SYSTEM_RANDOM.sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise DependencyDown("found no free loopback port")


def kept_secret(path: Path) -> str:
    """The secret in that file, made at the first call; only its owner can read it."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(18), "ascii")
    return path.read_text("ascii")


def exchange(port: int, question: bytes, timeout_s: float = 1.0) -> bytes:
    """The first bytes a loopback server answers; empty if nobody does."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout_s) as connection:
            connection.sendall(question)
            return connection.recv(64)
    except OSError:
        return b""


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines() if log.exists() else []
    return " | ".join(lines[-5:]) or f"see {log}"
