"""A Flower process of its own, a toy worker beside it, and the hints between them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx2

from llmgine_workers.broker import Broker, Message
from llmgine_workers.broker.messages import hint

USER, PASSWORD = "operator", "a password nobody guesses"
SETTINGS = """
broker = {{url = "{url}", prefix = "{prefix}"}}
ledger = {{url = "{ledger}"}}
flower = {{listen = "{listen}", url_prefix = "{below}"}}
[providers.openai]
[providers.anthropic]
"""
CHAIN = "summarize"
NO_LEDGER = "postgresql://127.0.0.1:9/nobody"

Result = TypeVar("Result")


async def soon(
    question: Callable[[], Awaitable[Result]], *, within_s: float = 15
) -> Result:
    """Ask every 50 ms until the answer is truthy; its last answer is in the failure."""
    deadline = time.monotonic() + within_s
    while not (answer := await question()):
        assert time.monotonic() < deadline, f"{answer!r} after {within_s} s"
        await asyncio.sleep(0.05)
    return answer


class Flower:
    """`llmgine flower` as a process; provider keys are not in its environment."""

    def __init__(
        self,
        directory: Path,
        url: str,
        prefix: str,
        listen: str = "",
        *,
        ledger: str = NO_LEDGER,
        below: str = "",
    ) -> None:
        self.listen = listen or f"127.0.0.1:{free_port()}"
        self.log = directory / f"{prefix}-{uuid4().hex[:6]}.log"
        self._config = self.log.with_suffix(".toml")
        self._config.write_text(
            SETTINGS.format(
                url=url, prefix=prefix, listen=self.listen, ledger=ledger, below=below
            )
        )
        self.client = httpx2.AsyncClient(
            base_url=f"http://{self.listen}",
            auth=(USER, PASSWORD),
            trust_env=False,
            timeout=20,
        )

    def spawn(self, *arguments: str, **environ: str) -> None:
        """Start it; `environ` replaces its user and password."""
        program = [sys.executable, "-m", "llmgine_workers.cli.app"]
        given = environ or {"FLOWER_USER": USER, "FLOWER_PASSWORD": PASSWORD}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*program, "--config", str(self._config), "flower", *arguments],
                env=_without_keys() | given,
                stdout=log,
                stderr=log,
            )

    async def start(self, *arguments: str) -> None:
        """Start it and wait until it answers."""
        self.spawn(*arguments)
        await soon(self._answers, within_s=30)

    async def hears(self) -> None:
        """Wait until it hears the workers, whom it asks for a sign of life at first."""

        async def knows_one() -> bool:
            return bool((await self.get("/workers", json=1))["data"])

        await soon(knows_one)

    async def ends(self, number: signal.Signals | None = None) -> int:
        """Its exit status, within 15 s, after a signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, 15)

    async def destroy(self) -> None:
        await self.client.aclose()
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON at a path."""
        answer = await self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def page(self, path: str) -> str:
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def task(self, message: Message) -> dict[str, Any]:
        """What it tells of the task of a hint; empty while it knows none."""
        tasks: dict[str, Any] = await self.get("/api/tasks", search=message.id)
        found: dict[str, Any] = tasks.get(message.id, {})
        return found

    async def shows(self, message: Message, state: str) -> dict[str, Any]:
        """The task of a hint, once it is in that state."""

        async def task() -> dict[str, Any]:
            found = await self.task(message)
            return found if found.get("state") == state else {}

        return await soon(task)

    async def table(self, search: str) -> dict[str, Any]:
        """What the Tasks page asks for, with these words in its search field."""
        first = {"draw": 1, "start": 0, "length": 10, "search[value]": search}
        order = {"order[0][column]": 0, "columns[0][data]": "name"}
        found: dict[str, Any] = await self.get("/tasks/datatable", **first, **order)
        return found

    async def depths(self) -> dict[str, int | None]:
        """Each queue of the Broker tab, and its depth."""
        answer = await self.get("/api/queues/length")
        return {row["name"]: row["messages"] for row in answer["active_queues"]}

    async def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(httpx2.TransportError):
            return (await self.client.get("/healthcheck")).is_success
        return False


@dataclass
class Place:
    """A broker with our topology, a worker of the pool openai, and Flower."""

    url: str
    prefix: str
    broker: Broker
    flower: Flower
    journal: Path

    async def give(self, path: str, count: int = 1) -> list[Message]:
        """Publish hints to the worker; the path says how the steps end."""
        hints = [hint(uuid4(), path, 0, CHAIN) for _ in range(count)]
        await self.publish("openai", hints)
        return hints

    async def run(self, path: str) -> Message:
        """Publish one and wait until its step has ended."""
        (given,) = await self.give(path)
        await self.ended([given])
        return given

    async def publish(self, queue: str, messages: Sequence[Message]) -> None:
        lost = await self.broker.publish(f"{self.prefix}.{queue}", messages)
        assert not lost

    async def ended(self, messages: Sequence[Message], times: int = 1) -> None:
        jobs = [job_of(message) for message in messages]

        async def all_ended() -> bool:
            ended = self._ended()
            return all(ended.count(job) >= times for job in jobs)

        await soon(all_ended)

    def _ended(self) -> list[str]:
        notes = map(json.loads, self.journal.read_text().splitlines())
        return [note["job"] for note in notes if note["what"] == "ended"]


def job_of(message: Message) -> str:
    (job, _), _, _ = json.loads(message.body)
    return str(job)


def duplicate(message: Message, path: str) -> Message:
    """Another hint for the same task, for which the toy behaves otherwise."""
    return replace(message, body=json.dumps([[job_of(message), path], {}, {}]).encode())


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _without_keys() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.endswith("_API_KEY") and not name.startswith(("FLOWER_", "LLMGINE_"))
    }
