"""The servers of the tests: where they come from, and how a test breaks them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest
import redis

from llmgine_workers.errors import DependencyDown
from llmgine_workers.local import (
    EmbeddedPostgres,
    EmbeddedValkey,
    LocalServer,
    PrivateRabbit,
    rabbit_available,
)

_POLICY = Path("/usr/sbin/policy-rc.d")
Server = TypeVar("Server", bound=LocalServer)


class Breakable(Generic[Server]):
    """A private server that a test may stop, kill, freeze and empty."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._frozen = False

    @property
    def url(self) -> str:
        """Stays the same whatever happens to the server."""
        return self.server.url

    def start(self) -> None:
        """Start it on the same port, with the data it had."""
        self.server.start()

    def stop(self) -> None:
        """Stop it cleanly."""
        self.resume()
        self.server.stop()

    def kill(self) -> None:
        """SIGKILL it with every process it started, so that it can start at once."""
        family = self._family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.server.kill()
        while any(map(lives, family)):  # nothing survives SIGKILL for long
            time.sleep(0.01)
        self._frozen = False

    def pause(self) -> None:
        """Freeze it: connections stay, nothing answers."""
        self._signal_all(signal.SIGSTOP)
        self._frozen = True

    def resume(self) -> None:
        """Let it go on."""
        if self._frozen:
            self._signal_all(signal.SIGCONT)
        self._frozen = False

    def restore(self) -> None:
        """Running and thawed, whatever the last test did to it."""
        self.resume()
        self.start()

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _family(self) -> list[psutil.Process]:
        if not self.server.running:
            return []
        parent = psutil.Process(self.server.pid)
        return [parent, *parent.children(recursive=True)]


class Rabbit(Breakable[PrivateRabbit]):
    """RabbitMQ: also `ctl`, virtual hosts, and an empty broker in its place."""

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints."""
        return self.server.ctl(*arguments)

    def fresh(self) -> None:
        """An empty broker on the same port, as if the node had been replaced."""
        self.stop()
        self.server.empty()
        self.start()

    def new_vhost(self, name: str) -> str:
        """The URL of a new virtual host."""
        self.ctl("add_vhost", name)
        self.ctl("set_permissions", "-p", name, "llmgine", ".*", ".*", ".*")
        return _with_path(self.url, name)


class Postgres(Breakable[EmbeddedPostgres]):
    """PostgreSQL: also new databases."""

    def new_database(self, name: str) -> str:
        """The URL of a new database."""
        run_apart(_execute(self.url, f'CREATE DATABASE "{name}"'))
        return self.server.database_url(name)


class RedisServer(Breakable[EmbeddedValkey]):
    """Valkey: also emptied in place."""

    def flush(self) -> None:
        """Forget every key, as a restart does."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


def lives(process: psutil.Process) -> bool:
    """A zombie that waits for init to reap it holds nothing any more."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def run_apart(work: Coroutine[Any, Any, None]) -> None:
    """Await in another thread: the tests' own loop may be running in this one."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, work).result()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _with_path(url: str, path: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, f"/{path}", "", ""))


def start_or_skip(control: Breakable[Any]) -> None:
    """Start a server; without one skip loudly at home, fail where CI=true."""
    try:
        if isinstance(control.server, PrivateRabbit):
            need_rabbit()
        control.start()
    except DependencyDown as missing:
        refuse(f"{control.server.name} for the integration tests: {missing}")


def refuse(reason: str) -> None:
    """A skipped test proves nothing, so CI must not take it for a passed one."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def need_rabbit() -> None:
    """RabbitMQ from this machine, else from apt; DependencyDown without either."""
    if not rabbit_available():
        install_rabbit()
    if not rabbit_available():
        raise DependencyDown("apt-get install rabbitmq-server")


def install_rabbit() -> None:
    """Install Debian's package without ever starting the system's service."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    lock = Path(tempfile.gettempdir()) / "llmgine-tests-apt.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the other workers of pytest-xdist wait
        if not rabbit_available():
            _apt_install("rabbitmq-server")


def _apt_install(package: str) -> None:
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n", "ascii")
        _POLICY.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", package]
    try:
        for command in (["apt-get", "update"], install):
            subprocess.run(command, env=environment, check=False, capture_output=True)
    finally:
        if ours:
            _POLICY.unlink()
