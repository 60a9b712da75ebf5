"""What a system under load is, and ours as one: on stores and a provider of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from loadtests.bench.client import Target
from loadtests.site import Site

CHAIN = """
name: ask
inputs:
  text: {type: string}
steps:
  - name: answer
    llm: {model: fast, prompt: "{{ inputs.text }}"}
"""
SETTINGS = """
[chains]
paths = ["{folder}/chains"]
"""
PACE = ("--latency", "0.4", "--first-token", "0.02", "--chunk-rate", "50")
"""A plain answer takes 0.4 s; a streamed one has 20 chunks, 20 ms apart."""


class System(Target, Protocol):
    """One system; `setting` is how many calls it may have open at once."""

    name: str
    settings: Sequence[int]
    posted: int

    @property
    def pids(self) -> Mapping[str, int]:
        """Its own processes, by what they are."""

    async def start(self, setting: int) -> None:
        """Returns when its processes are there."""

    async def stop(self) -> None:
        """End its processes; the stores stay."""

    async def unfinished(self) -> int:
        """How many of the `posted` jobs since the start have no result stored yet."""


class Ours:
    """Gateway, scheduler and workers, durable, as `Site` starts them."""

    name = "llmgine"
    settings: Sequence[int] = (200, 400)
    path = "/v1/jobs"

    def __init__(self, site: Site, workers: int = 1) -> None:
        self._site = site
        self._workers = workers
        self._ledger: asyncpg.Connection[asyncpg.Record] | None = None
        self.posted = 0
        self.url = site.url

    @property
    def headers(self) -> Mapping[str, str]:
        """The key that the site made."""
        return {"Authorization": f"Bearer {self._site.key}"}

    @property
    def pids(self) -> Mapping[str, int]:
        """All that `start_ours` started."""
        running = self._site.processes.items()
        return {name: one.pid for name, one in running if name != "simulator"}

    def body(self, prompt: str, *, stream: bool) -> dict[str, Any]:
        """A job of one step of a chain that the installation knows by name."""
        options = {"stream": stream, "timeout": "1h"}
        return {"chain": "ask", "inputs": {"text": prompt}, "options": options}

    async def start(self, setting: int) -> None:
        """With `setting` slots in each worker."""
        self.posted = 0
        workers = ["openai"] * self._workers
        slots = ("--slots", str(setting))
        await asyncio.to_thread(self._site.start_ours, workers, *slots)
        # Kept open: logging in costs PostgreSQL more than a job does.
        self._ledger = await asyncpg.connect(self._site.postgres.url)
        await self._ledger.execute("set search_path to llmgine")

    async def stop(self) -> None:
        """In order, as SIGTERM does it."""
        if self._ledger:
            await self._ledger.close()
        await asyncio.to_thread(self._site.stop_ours)

    async def unfinished(self) -> int:
        """Asked of the ledger by an index, however many jobs have ended."""
        assert self._ledger
        active = "select count(*) from jobs where state = 'active'"
        return int(await self._ledger.fetchval(active))


def store_pids(site: Site) -> dict[str, int]:
    """The stores that all systems share."""
    return {
        "RabbitMQ": site.rabbit.server.pid,
        "PostgreSQL": site.postgres.server.pid,
        "Redis": site.redis.server.pid,
    }


def bench_site(folder: Path, *, simulator: Sequence[str] = PACE) -> Site:
    """A site whose servers run, with the chain of one step; nothing of ours runs yet."""
    (folder / "chains").mkdir(parents=True, exist_ok=True)
    (folder / "chains" / "ask.yaml").write_text(CHAIN)
    site = Site(folder, slots=200, simulator=simulator, settings=SETTINGS)
    site.start_servers()
    return site
