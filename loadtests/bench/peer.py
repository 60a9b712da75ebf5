"""The systems beside ours, each a script of `peers` run as its documentation says."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil
import redis

from loadtests.site import Site, free_port

SCRIPTS = Path(__file__).parent / "peers"
PEERS_PYTHON = Path(__file__).parents[2] / "build/bench/bin/python"
"""Where `make bench` installs what the peers need."""


@dataclass(frozen=True)
class Kind:
    """One peer: its module, the worker's command, and what may be calibrated."""

    name: str
    module: str
    worker: tuple[str, ...]
    settings: tuple[int, ...]


KINDS = (
    Kind(
        "Celery",
        "celery_peer",
        ("celery", "-A", "{module}", "worker", "-P", "threads", "-c", "{setting}",
         "--loglevel", "WARNING"),
        (100, 200, 400),
    ),
    Kind(
        "Dramatiq",
        "dramatiq_peer",
        ("dramatiq", "{module}", "--processes", "1", "--threads", "{setting}"),
        (100, 200, 400),
    ),
    Kind(
        "Taskiq",
        "taskiq_peer",
        ("taskiq", "worker", "{module}:broker", "--workers", "1", "--max-async-tasks",
         "{setting}", "--log-level", "WARNING"),
        (100, 200, 400),
    ),
)  # fmt: skip


class Peer:
    """FastAPI on uvicorn and one worker process, from a script of `peers`."""

    headers: Mapping[str, str] = {}
    path = "/jobs"

    def __init__(self, kind: Kind, site: Site, python: Path) -> None:
        self.name, self.settings = kind.name, kind.settings
        self._kind, self._site, self._python = kind, site, python
        self.posted = 0
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        database = 1 + KINDS.index(kind)
        self._redis_url = _with_path(site.redis.url, f"/{database}")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> Mapping[str, int]:
        """The front and the worker."""
        return {name: one.pid for name, one in self._processes.items()}

    def body(self, prompt: str, *, stream: bool) -> dict[str, Any]:
        """What the scripts read."""
        return {"prompt": prompt, "stream": stream}

    async def start(self, setting: int) -> None:
        """On an empty database of results."""
        self.posted = 0
        with redis.Redis.from_url(self._redis_url) as results:
            results.flushdb()
        module, port = self._kind.module, str(self._port)
        front = ("uvicorn", f"{module}:api", "--port", port, "--log-level", "warning")
        worker = [p.format(module=module, setting=setting) for p in self._kind.worker]
        self._spawn("front", [*front, "--no-access-log"], setting)
        self._spawn("worker", worker, setting)

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL for what is left of it."""
        await asyncio.to_thread(_end, list(self._processes.values()))
        self._processes.clear()

    async def unfinished(self) -> int:
        """Each result is a key."""
        with redis.Redis.from_url(self._redis_url) as results:
            return self.posted - int(results.dbsize())

    def _spawn(self, name: str, command: Sequence[str], setting: int) -> None:
        environ = {
            **os.environ,
            "AMQP_URL": self._site.rabbit.url,
            "REDIS_URL": self._redis_url,
            "OPENAI_BASE_URL": f"{self._site.simulator}/v1",
            "OPENAI_API_KEY": "sk-simulated",
            "CONCURRENCY": str(setting),
        }
        argv = [str(self._python.parent / command[0]), *command[1:]]
        log_path = self._site.folder / f"{self._kind.module}-{name}.log"
        with log_path.open("ab") as log:
            self._processes[name] = subprocess.Popen(
                argv,
                env=environ,
                cwd=SCRIPTS,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    roots = [psutil.Process(process.pid) for process in processes]
    children = [child for root in roots for child in root.children(recursive=True)]
    for process in processes:
        process.terminate()
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
    for left in children:
        with suppress(psutil.NoSuchProcess):
            left.kill()


def _with_path(url: str, path: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
