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
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar
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
from tests.docker_rabbit import DockerRabbit, docker_answers

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

    def discard(self) -> None:
        """Remove what it keeps outside its directory."""

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

    def discard(self) -> None:
        self.server.empty()

    def _signal_all(self, number: signal.Signals) -> None:
        if isinstance(self.server, DockerRabbit):
            self.server.freeze(frozen=number is signal.SIGSTOP)
        else:
            super()._signal_all(number)

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

    def forget_scripts(self) -> None:
        """Know no Lua script any more."""
        with redis.Redis.from_url(self.url) as client:
            client.script_flush()


def lives(process: psutil.Process) -> bool:
    """A zombie that waits for init to reap it holds nothing any more."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


Control = TypeVar("Control", bound=Breakable[Any])


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


@contextmanager
def running(make: Callable[[], Control]) -> Iterator[Control]:
    """A started server; without one skip loudly at home, fail where CI=true."""
    try:
        control = make()
        control.start()
    except DependencyDown as missing:
        refuse(f"the integration tests need a server: {missing}")
    yield control
    control.kill()
    control.discard()


def refuse(reason: str) -> NoReturn:
    """A skipped test proves nothing, so CI must not take it for a passed one."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def rabbit_server(data_dir: Path, *, management: bool = False) -> PrivateRabbit:
    """From this machine, else from apt, else from Docker; else DependencyDown."""
    if not rabbit_available():
        install_rabbit()
    if rabbit_available():
        return PrivateRabbit(data_dir, management=management)
    if docker_answers():
        return DockerRabbit(data_dir, management=management)
    raise DependencyDown("RabbitMQ: apt-get install rabbitmq-server, or start Docker")


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
