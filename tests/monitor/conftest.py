"""One place of each kind of broker, shared by the tests of this room."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from llmgine_workers.broker import open_broker
from llmgine_workers.broker.declare import declare
from tests.monitor.running import Flower, Place
from tests.worker.toy_worker import start_toy

POOLS = ["openai", "anthropic", "tools"]


@pytest.fixture(scope="module", params=["amqp_url", "redis_url"])
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    """RabbitMQ, then Valkey."""
    url: str = request.getfixturevalue(request.param)
    directory = tmp_path_factory.mktemp("flower")
    prefix = f"t{uuid4().hex[:10]}"
    await declare(url, prefix, POOLS)
    broker = open_broker(url, prefix)
    found = Place(
        url, prefix, broker, Flower(directory, url, prefix), directory / "journal"
    )
    found.journal.touch()
    toy = start_toy(_toy(found), "-Q", f"{prefix}.openai", log=directory / "worker.log")
    try:
        await found.run("answer:done")
        await found.flower.start()
        await found.flower.hears()
        yield found
    finally:
        toy.kill()
        toy.wait()
        await found.flower.destroy()
        await broker.close()


def _toy(place: Place) -> dict[str, object]:
    return {
        "journal": str(place.journal),
        "broker": place.url,
        "prefix": place.prefix,
        "queues": [f"{place.prefix}.openai"],
        "slots": 10,
        "heartbeat": 20,
    }


@pytest.fixture
async def new_flower(tmp_path: Path) -> AsyncIterator[Callable[..., Flower]]:
    """Makes further Flowers, not started: `new_flower(url)`."""
    made: list[Flower] = []

    def make(url: str, prefix: str = "llmgine", listen: str = "", **more: str) -> Flower:
        made.append(Flower(tmp_path, url, prefix, listen, **more))
        return made[-1]

    yield make
    for flower in made:
        await flower.destroy()
