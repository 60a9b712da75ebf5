"""The event connection is kept while events never pause, and replaced when it is lost."""

# mypy: allow-untyped-calls
# (kombu says it is typed, and is not)
from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest
from celery import Celery

from llmgine_workers.monitor.events import KeptEvents
from tests.worker.proxy import Proxy
from tests.worker.toy_worker import until

pytestmark = pytest.mark.integration

HEARTBEAT_S = 1.0


@dataclass
class Loop:
    """Takes the place of Flower's loop and notes what is heard."""

    heard: list[str] = field(default_factory=list)

    def add_callback(self, call: Any) -> None:
        self.heard.append(call.args[0]["hostname"])


@dataclass
class Ear:
    loop: Loop
    proxy: Proxy
    tell: Callable[[str], None]

    async def hears(self, *, within_s: float) -> None:
        """Wait until an event that is sent from now on is heard."""
        await self.tells_for(within_s, until=self._new_name())

    async def tells_for(self, seconds: float, *, until: str = "") -> None:
        """Send an event every 100 ms; with `until` of that name, until it is heard."""
        deadline = time.monotonic() + seconds
        while until not in self.loop.heard:
            if time.monotonic() > deadline:
                assert not until, f"heard nothing within {seconds} s"
                return
            self.tell(until or "noise")
            await asyncio.sleep(0.1)

    def _new_name(self) -> str:
        return f"event-{uuid4().hex}"


@pytest.fixture(scope="module")
async def ear(amqp_url: str) -> AsyncIterator[Ear]:
    parts = urlsplit(amqp_url)
    proxy = Proxy(parts.hostname or "", parts.port or 5672)
    await proxy.listen()
    netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}"
    prefix = f"t{uuid4().hex[:10]}"
    loop = Loop()
    app = _app(urlunsplit(parts._replace(netloc=netloc)), prefix)
    thread = KeptEvents(app, loop, enable_events=False, max_tasks_in_memory=10)
    speaker = _app(amqp_url, prefix)
    with speaker.connection() as connection:
        voice = speaker.events.Dispatcher(connection, enabled=True)

        def tell(name: str) -> None:
            voice.hostname = name
            voice.send("worker-heartbeat")

        found = Ear(loop, proxy, tell)
        thread.start()
        try:
            await found.hears(within_s=10)
            yield found
        finally:
            proxy.flow()
            thread.stop()
            await asyncio.to_thread(thread.join, 10)
            await proxy.refuse()
    assert not thread.is_alive()


def _app(url: str, prefix: str) -> Celery:
    app = Celery(prefix, broker=url, set_as_current=False)
    app.conf.update(event_exchange=f"{prefix}.events", broker_heartbeat=HEARTBEAT_S)
    return app


def _losses(caplog: pytest.LogCaptureFixture) -> int:
    return sum("no events" in record.getMessage() for record in caplog.records)


async def test_a_stream_of_events_without_a_pause_does_not_cost_the_connection(
    ear: Ear, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await ear.tells_for(4 * HEARTBEAT_S)  # RabbitMQ closes after 2 without a sign
    assert _losses(caplog) == 0


async def test_a_connection_that_is_cut_is_replaced(ear: Ear) -> None:
    ear.proxy.cut()
    await ear.hears(within_s=10)


async def test_a_connection_lost_without_a_word_is_noticed_and_replaced(
    ear: Ear, caplog: pytest.LogCaptureFixture
) -> None:
    ear.proxy.stall()
    with caplog.at_level(logging.WARNING):
        await until(lambda: _losses(caplog) > 0, within_s=10 * HEARTBEAT_S)
    ear.proxy.flow()
    await ear.hears(within_s=15)
