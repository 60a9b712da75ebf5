"""A whole installation on this machine: private servers, our processes, a simulator.

Everything listens on loopback, is known by its process id, and ends with the `Site`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from llmgine_workers.local import EmbeddedPostgres, EmbeddedValkey, PrivateRabbit
from tests.servers import Postgres, Rabbit, RedisServer

PROGRAM = "llmgine_workers.cli.app"
POOLS = ("openai", "anthropic", "tools")

SETTINGS = """
[ledger]
url = "{postgres}"
[broker]
url = "{rabbit}"
[redis]
url = "{redis}"
[gateway]
listen = "127.0.0.1:{port}"
[worker]
slots = {slots}
grace = "60s"
[providers.openai]
base_url = "{simulator}/v1"
[providers.anthropic]
base_url = "{simulator}"
[models]
fast = ["openai/gpt-5-mini"]
smart = ["anthropic/claude-sonnet-4-5"]
"""

KEYS = {"OPENAI_API_KEY": "sk-simulated", "ANTHROPIC_API_KEY": "sk-ant-simulated"}


class Site:
    """The installation; attributes are the things a fault run may harm."""

    def __init__(
        self,
        folder: Path,
        *,
        slots: int,
        simulator: Sequence[str],
        workers: Sequence[str] = POOLS,
        rabbit: PrivateRabbit | None = None,
        settings: str = "",
    ) -> None:
        self.folder = folder
        self._settings = SETTINGS + settings
        self._workers = workers
        self.slots = slots
        self.postgres = Postgres(EmbeddedPostgres(folder / "postgres"))
        self.redis = RedisServer(EmbeddedValkey(folder / "valkey"))
        self.rabbit = Rabbit(rabbit or PrivateRabbit(folder / "rabbit"))
        self.calls = folder / "calls.jsonl"
        self._simulator_arguments = simulator
        self.simulator = ""
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.key = ""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Servers first, then everything of ours; returns when the gateway is ready."""
        self.start_servers()
        self.start_ours(self._workers)

    def start_servers(self) -> None:
        """The stores and the simulator, with our schema, topology and key in them."""
        for server in (self.postgres, self.redis, self.rabbit):
            server.start()
        self.simulator = self._start_simulator()
        self._write_settings()
        subprocess.run(self._llmgine("migrate"), check=True, env=self._environ())
        self.key = self.key_of("load")

    def key_of(self, tenant: str) -> str:
        """A new key that may submit and read for a tenant."""
        made = subprocess.run(
            [
                *self._llmgine("keys", "create", "--tenant", tenant, "--json"),
                *("--scope", "submit", "--scope", "read"),
            ],
            check=True,
            env=self._environ(),
            stdout=subprocess.PIPE,
        )
        return str(json.loads(made.stdout)["key"])

    def start_ours(self, workers: Sequence[str], *options: str) -> None:
        """Gateway, scheduler and a worker for each pool named; returns when ready."""
        for name in ("gateway", "scheduler"):
            self.spawn(name, name)
        for number, pool in enumerate(workers):
            self.spawn(f"{pool}-{number}", "worker", pool, *options)
        self.until_ready(len(workers))

    def stop_ours(self) -> None:
        """End what `start_ours` and `spawn` started; servers and simulator stay."""
        names = [name for name in self.processes if name != "simulator"]
        _end([self.processes.pop(name) for name in names])

    def spawn(self, name: str, *command: str, module: str = PROGRAM) -> None:
        """Start one of our processes; its log is `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self._llmgine(*command, module=module),
                env=self._environ(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def asked(self, *command: str) -> subprocess.Popen[bytes]:
        """A command that answers and ends; whoever asked reads its stdout."""
        return subprocess.Popen(
            self._llmgine(*command),
            env=self._environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one of our processes."""
        self.processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        """SIGKILL one of our processes and wait until it is gone."""
        self.signal(name, signal.SIGKILL)
        self.processes.pop(name).wait()

    def stop(self) -> None:
        """End everything, in order."""
        _end(list(self.processes.values()))
        for server in (self.rabbit, self.redis, self.postgres):
            server.restore()
            server.stop()

    def cpu_seconds(self) -> dict[str, float]:
        """User and system time of each of our live processes."""
        found = {}
        for name, process in self.processes.items():
            times = psutil.Process(process.pid).cpu_times()
            found[name] = round(times.user + times.system, 2)
        return found

    async def query(self, sql: str) -> list[asyncpg.Record]:
        """Ask the ledger's server directly."""
        connection = await asyncpg.connect(self.postgres.url)
        try:
            await connection.execute("set search_path to llmgine")
            found: list[asyncpg.Record] = await connection.fetch(sql)
            return found
        finally:
            await connection.close()

    def _llmgine(self, *command: str, module: str = PROGRAM) -> list[str]:
        config = str(self.folder / "llmgine.toml")
        start = [sys.executable, "-m", module, "--config", config]
        return [*start, *command]

    def _environ(self) -> dict[str, str]:
        return {**os.environ, **KEYS}

    def _start_simulator(self) -> str:
        command = [sys.executable, "-m", "llmgine_workers.simulator", "--port", "0"]
        process = subprocess.Popen(
            [*command, "--log", str(self.calls), *self._simulator_arguments],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.processes["simulator"] = process
        assert process.stdout is not None
        return process.stdout.readline().decode().split()[-1]

    def _write_settings(self) -> None:
        text = self._settings.format(
            postgres=self.postgres.url,
            rabbit=self.rabbit.url,
            redis=self.redis.url,
            port=self._port,
            slots=self.slots,
            simulator=self.simulator,
            folder=self.folder,
        )
        (self.folder / "llmgine.toml").write_text(text)

    def until_ready(self, workers: int, seconds: float = 45) -> None:
        """Until the gateway listens and so many workers beat; TimeoutError."""
        deadline = time.monotonic() + seconds
        while not self._answers() or asyncio.run(self._live_workers()) < workers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready in {seconds:g} s: see {self.folder}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), 0.2).close()
        except OSError:
            return False
        return True

    async def _live_workers(self) -> int:
        rows = await self.query(
            "select count(*) from workers "
            "where beat_no > 0 and stopped_at is null and dead_at is null"
        )
        return int(rows[0][0])


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Site]:
    """A started site that is stopped whatever happens."""
    site = Site(folder, **options)
    try:
        site.start()
        yield site
    finally:
        site.stop()


def _end(processes: Sequence[subprocess.Popen[bytes]], within_s: float = 90) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
