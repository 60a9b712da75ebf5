"""A stock Celery worker takes our hints, and events (so Flower) show their names."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from queue import Queue
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from llmgine_workers import clock
from llmgine_workers.broker import Broker, messages
from tests.broker.conftest import Place, make_place

pytestmark = pytest.mark.integration

WANTED = ("worker-online", "task-received", "task-succeeded", "task-failed")


@pytest.fixture(params=["rabbit", "valkey"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A virtual host of its own: stock Celery leaves the queues of its delays behind."""
    if request.param == "rabbit":
        url = request.getfixturevalue("shared_rabbit").new_vhost("stock-celery")
    else:
        url = request.getfixturevalue("redis_url")
    place = await make_place(url)
    yield place
    for broker in place.opened:
        await broker.close()


@pytest.fixture
def events(place: Place) -> Iterator[Queue[dict[str, Any]]]:
    """What Flower would hear of this place."""
    heard: Queue[dict[str, Any]] = Queue()
    app = Celery(broker=place.url)
    app.conf.event_exchange = f"{place.prefix}.events"
    subscribed, finished = threading.Event(), threading.Event()

    def listen() -> None:
        with Connection(place.url) as connection:
            receiver = app.events.Receiver(
                connection, handlers=dict.fromkeys(WANTED, heard.put)
            )
            with receiver.consumer_context() as (draining, *_):
                subscribed.set()
                while not finished.is_set():
                    try:
                        draining.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue

    thread = threading.Thread(target=listen)
    thread.start()
    assert subscribed.wait(10)
    yield heard
    finished.set()
    thread.join()


@pytest.fixture
def worker(place: Place, events: Queue[dict[str, Any]]) -> Iterator[None]:
    """`celery worker` on the pool's queue, with Celery's own pool."""
    environment = {**os.environ, "BROKER_URL": place.url, "PREFIX": place.prefix}
    command = [sys.executable, "-m", "celery", "-A", "tests.broker.stock_celery"]
    command += ["worker", "-P", "solo", "--without-gossip", "--without-mingle"]
    process = subprocess.Popen([*command, "-Q", place.queue], env=environment)
    try:
        assert events.get(timeout=20)["type"] == "worker-online"
        yield
    finally:
        process.terminate()
        process.wait(20)


async def test_it_runs_a_hint_under_its_readable_name(
    place: Place, broker: Broker, worker: None, events: Queue[dict[str, Any]]
) -> None:
    job = clock.uuid7()
    hint = messages.hint(job, "notes.3.page", 0, "report")
    assert await broker.publish(place.queue, [hint]) == []

    received, ended = [await asyncio.to_thread(events.get, timeout=20) for _ in range(2)]
    assert (received["type"], ended["type"]) == ("task-received", "task-succeeded")
    assert received["uuid"] == ended["uuid"] == hint.id
    assert received["name"] == "report/notes.page"
    assert received["args"] == f"report notes.3.page {job}"
    assert await broker.depth(place.queue) == 0
