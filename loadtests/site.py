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
    ) -> None:
        self.folder = folder
        self._workers = workers
        self.slots = slots
        self.postgres = Postgres(EmbeddedPostgres(folder / "postgres"))
        self.redis = RedisServer(EmbeddedValkey(folder / "valkey"))
        self.rabbit = Rabbit(rabbit or PrivateRabbit(folder / "rabbit"))
        self.calls = folder / "calls.jsonl"
        self._simulator = simulator
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.key = ""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Servers first, then everything of ours; returns when the gateway is ready."""
        for server in (self.postgres, self.redis, self.rabbit):
            server.start()
        self._write_settings(self._start_simulator())
        subprocess.run(self._llmgine("migrate"), check=True, env=self._environ())
        made = subprocess.run(
            [
                *self._llmgine("keys", "create", "--tenant", "load", "--json"),
                *("--scope", "submit", "--scope", "read"),
            ],
            check=True,
            env=self._environ(),
            stdout=subprocess.PIPE,
        )
        self.key = json.loads(made.stdout)["key"]
        for name in ("gateway", "scheduler"):
            self.spawn(name, name)
        for number, pool in enumerate(self._workers):
            self.spawn(f"{pool}-{number}", "worker", pool)
        self._until_ready(len(self._workers))

    def spawn(self, name: str, *command: str) -> None:
        """Start one of our processes; its log is `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self._llmgine(*command),
                env=self._environ(),
                stdout=log,
                stderr=log,
                start_new_session=True,
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
        ours = list(self.processes.values())
        for process in ours:
            process.terminate()
        for process in ours:
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
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

    def _llmgine(self, *command: str) -> list[str]:
        config = str(self.folder / "llmgine.toml")
        start = [sys.executable, "-m", "llmgine_workers.cli.app", "--config", config]
        return [*start, *command]

    def _environ(self) -> dict[str, str]:
        return {**os.environ, **KEYS}

    def _start_simulator(self) -> str:
        command = [sys.executable, "-m", "llmgine_workers.simulator", "--port", "0"]
        process = subprocess.Popen(
            [*command, "--log", str(self.calls), *self._simulator],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.processes["simulator"] = process
        assert process.stdout is not None
        return process.stdout.readline().decode().split()[-1]

    def _write_settings(self, simulator: str) -> None:
        text = SETTINGS.format(
            postgres=self.postgres.url,
            rabbit=self.rabbit.url,
            redis=self.redis.url,
            port=self._port,
            slots=self.slots,
            simulator=simulator,
        )
        (self.folder / "llmgine.toml").write_text(text)

    def _until_ready(self, workers: int, seconds: float = 45) -> None:
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
        rows = await self.query("select count(*) from workers where beat_no > 0")
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


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
