"""A broker of each kind with its topology, and a reader that sees what Celery sees."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError

from llmgine_workers.broker import Broker, open_broker
from llmgine_workers.broker.declare import declare


@dataclass
class Place:
    """A broker's URL and a prefix of its own."""

    url: str
    prefix: str
    opened: list[Broker] = field(default_factory=list)

    @property
    def queue(self) -> str:
        return f"{self.prefix}.openai"

    @property
    def dead(self) -> str:
        return f"{self.prefix}.dead"

    def open(self) -> Broker:
        """A broker that the fixture closes."""
        self.opened.append(open_broker(self.url, self.prefix))
        return self.opened[-1]

    def read(self, queue: str) -> list[Any]:
        """All messages of the queue, consumed, through kombu."""
        with Connection(self.url) as connection:
            channel = connection.channel()
            messages = []
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                messages.append(_as_kombu(channel, message))
            return messages


def _as_kombu(channel: Any, message: Any) -> Any:
    convert = getattr(channel, "message_to_python", None)
    return convert(message) if convert else message


async def make_place(url: str) -> Place:
    prefix = f"t{uuid4().hex[:10]}"
    await declare(url, prefix, ["openai"])
    return Place(url, prefix)


@pytest.fixture(params=["rabbit", "valkey"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Both brokers, one after the other."""
    fixture = {"rabbit": "amqp_url", "valkey": "redis_url"}[request.param]
    place = await make_place(request.getfixturevalue(fixture))
    yield place
    for broker in place.opened:
        await broker.close()


@pytest.fixture
def broker(place: Place) -> Broker:
    """One broker of that place."""
    return place.open()


async def until(holds: Callable[[], Any], seconds: float = 10) -> None:
    """Wait for a condition that another process brings about."""
    import asyncio

    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.02)


__all__ = ["OperationalError", "Place", "make_place", "until"]
