"""A worker process that runs the toy application, and its queue, for the tests."""

# mypy: allow-untyped-calls
# (kombu says it is typed, and is not)
from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from llmgine_workers.celery_app import Program, make_app
from llmgine_workers.engine.outcome import Outcome
from tests.worker.proxy import Proxy

REPOSITORY = Path(__file__).parents[2]
POOLS = {"greenlets": [], "threads": ["-P", "threads"]}


async def until(condition: Callable[[], Any], *, within_s: float = 20) -> None:
    """Wait for something to become true, looking every 20 ms."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        await asyncio.sleep(0.02)


class ToyWorker:
    """Made by the fixtures; talks to the broker itself, while its process has a proxy."""

    def __init__(
        self, amqp_url: str, directory: Path, pool: str, *, slots: int, heartbeat: int
    ) -> None:
        self.prefix = f"toy-{uuid4().hex[:8]}"
        self.queue_name = f"{self.prefix}.openai"
        self.pool, self.slots, self.heartbeat = pool, slots, heartbeat
        self.url = amqp_url
        self._journal = directory / f"{self.prefix}.journal"
        self._journal.touch()
        self.log = directory / f"{self.prefix}.log"
        parts = urlsplit(amqp_url)
        self.proxy = Proxy(parts.hostname or "", parts.port or 5672)
        self.connection = Connection(amqp_url)
        self._declare()

    def _declare(self) -> None:
        channel = self.connection.default_channel
        dead = Exchange(f"{self.prefix}.dead", "fanout", channel=channel)
        self.dead_queue = Queue(dead.name, dead, channel=channel)
        self.dead_queue.declare()
        self.jobs = Exchange(f"{self.prefix}.jobs", "direct", channel=channel)
        self.queue = Queue(
            self.queue_name,
            self.jobs,
            routing_key=self.queue_name,
            queue_arguments={
                "x-queue-type": "quorum",
                "x-dead-letter-exchange": dead.name,
            },
            channel=channel,
        )
        self.queue.declare()
        self.event_queue = Queue(
            f"{self.prefix}.seen",
            Exchange(f"{self.prefix}.events", "topic"),
            routing_key="#",
            channel=channel,
        )
        self.event_queue.declare()

    # -- the process --

    async def start(self) -> None:
        await self.proxy.listen()
        parts = urlsplit(self.url)
        credentials, _, _ = parts.netloc.rpartition("@")
        netloc = f"{credentials}@127.0.0.1:{self.proxy.port}"
        settings = {
            "journal": str(self._journal),
            "broker": urlunsplit(parts._replace(netloc=netloc)),
            "prefix": self.prefix,
            "queues": [self.queue_name],
            "slots": self.slots,
            "heartbeat": self.heartbeat,
        }
        self.process = start_toy(
            settings, "-Q", self.queue_name, *POOLS[self.pool], log=self.log
        )
        await self.run("answer:done")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def exit_status(self) -> int:
        await until(lambda: self.process.poll() is not None)
        return self.process.returncode

    async def destroy(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        await self.proxy.refuse()
        for queue in (self.queue, self.dead_queue, self.event_queue):
            queue.delete()
        self.connection.release()

    def control(self) -> Celery:
        """An application like the worker's, for remote control."""
        return make_app(self.url, self.prefix, [self.queue], Program(_never), slots=1)

    # -- its queue --

    def publish(self, path: str, **headers: Any) -> str:
        """Publish a hint and return its job, which is its task id as well."""
        job = uuid4().hex
        self.publish_raw(
            json.dumps([[job, path], {}, {}]),
            {"task": "llmgine.step", "id": job, **headers},
        )
        return job

    def publish_raw(
        self,
        body: str | bytes,
        headers: dict[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> None:
        Producer(self.connection.default_channel, self.jobs).publish(
            body,
            routing_key=self.queue_name,
            headers=headers,
            content_type=content_type,
            content_encoding="utf-8",
        )

    def ready(self) -> int:
        """How many messages the queue has, without those a worker holds."""
        return int(self.queue.queue_declare(passive=True).message_count)

    def dead_bodies(self) -> list[bytes]:
        """Take the raw bodies of what was dead-lettered so far."""
        bodies = []
        channel = self.connection.default_channel
        while message := channel.basic_get(self.dead_queue.name, no_ack=True):
            body = message.body
            bodies.append(body.encode() if isinstance(body, str) else body)
        return bodies

    def events(self) -> list[dict[str, Any]]:
        """Take the task events sent so far, as Flower gets them."""
        events: list[dict[str, Any]] = []
        while message := self.event_queue.get(no_ack=True):
            payload = message.payload
            events += payload if isinstance(payload, list) else [payload]
        return events

    # -- what it did --

    def notes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._journal.read_text().splitlines()]

    def journal(self, what: str, *jobs: str) -> list[dict[str, Any]]:
        """The notes of one kind, of some jobs or of all."""
        return [
            note
            for note in self.notes()
            if note["what"] == what and (not jobs or note["job"] in jobs)
        ]

    async def ended(self, *jobs: str, times: int = 1) -> None:
        await until(lambda: len(self.journal("ended", *jobs)) >= len(jobs) * times)

    async def started(self, *jobs: str) -> None:
        await until(lambda: len(self.journal("started", *jobs)) >= len(jobs))

    async def run(self, *paths: str) -> list[str]:
        """Publish hints and wait until all have ended."""
        jobs = [self.publish(path) for path in paths]
        await self.ended(*jobs)
        return jobs

    async def all_slots_are_free(self) -> None:
        """As many hints as there are slots can only meet if every slot is free."""
        await self.run(*[f"meet:{self.slots}"] * self.slots)


async def _never(job: str, path: str) -> Outcome:
    raise AssertionError("this application runs nothing")


def start_toy(
    settings: dict[str, Any], *arguments: str, log: Path
) -> subprocess.Popen[bytes]:
    """Start `celery worker` with the toy application."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "TOY_SETTINGS": json.dumps(settings),
    }
    command = [sys.executable, "-m", "celery", "-q", "-A", "tests.worker.toy_app"]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*command, "worker", *arguments],
            env=environment,
            cwd=log.parent,
            stdout=output,
            stderr=output,
        )
