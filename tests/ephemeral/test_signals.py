"""Cancel signals reach every worker, also those that were reconnecting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from llmgine_workers.clock import uuid7
from llmgine_workers.ephemeral.connection import Ephemeral, EphemeralDown
from llmgine_workers.ephemeral.signals import Cancel, Signals
from tests.ephemeral.conftest import NewEphemeral, eventually
from tests.servers import RedisServer

pytestmark = pytest.mark.integration


class Listener:
    """A worker that notes what it hears."""

    def __init__(self, signals: Signals) -> None:
        self.heard: list[Cancel] = []
        self._signals = signals
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for cancel in self._signals.listen():
            self.heard.append(cancel)

    async def listens(self) -> None:
        """Return once a signal comes through."""
        ready = uuid7()
        async with asyncio.timeout(5):
            while not any(cancel.job == ready for cancel in self.heard):
                await self._signals.cancel(ready, None)
                await asyncio.sleep(0.01)
        self.heard.clear()


@pytest.fixture
async def listeners() -> AsyncIterator[list[Listener]]:
    started: list[Listener] = []
    yield started
    for listener in started:
        listener.task.cancel()
    await asyncio.gather(*(one.task for one in started), return_exceptions=True)


async def test_every_listener_hears_it_within_a_second(
    ephemeral: Ephemeral, listeners: list[Listener]
) -> None:
    signals, job = Signals(ephemeral), uuid7()
    listeners += [Listener(signals), Listener(signals)]
    for listener in listeners:
        await listener.listens()
    await signals.cancel(job, ["notes.3.page", "draft"])
    wanted = Cancel(job, ("notes.3.page", "draft"))
    for listener in listeners:
        await eventually(lambda: wanted in listener.heard, within_s=1.0)  # noqa: B023


async def test_no_paths_means_the_whole_job(
    ephemeral: Ephemeral, listeners: list[Listener]
) -> None:
    listener = Listener(Signals(ephemeral))
    listeners.append(listener)
    await listener.listens()
    job = uuid7()
    await Signals(ephemeral).cancel(job, None)
    await eventually(lambda: Cancel(job, None) in listener.heard, within_s=1.0)


async def test_each_is_heard_once_and_in_order(
    ephemeral: Ephemeral, listeners: list[Listener]
) -> None:
    signals, jobs = Signals(ephemeral), [uuid7() for _ in range(20)]
    listener = Listener(signals)
    listeners.append(listener)
    await listener.listens()
    for job in jobs:
        await signals.cancel(job, None)
    await eventually(lambda: any(one.job == jobs[-1] for one in listener.heard))
    heard = [one.job for one in listener.heard]
    assert [job for job in heard if job in jobs] == jobs


async def test_what_was_said_before_is_not_heard(
    ephemeral: Ephemeral, listeners: list[Listener]
) -> None:
    signals, old, new = Signals(ephemeral), uuid7(), uuid7()
    await signals.cancel(old, None)
    listener = Listener(signals)
    listeners.append(listener)
    await listener.listens()
    await signals.cancel(new, None)
    await eventually(lambda: Cancel(new, None) in listener.heard)
    assert Cancel(old, None) not in listener.heard


async def test_a_listener_hears_again_after_redis_was_replaced_by_an_empty_one(
    redis_server: RedisServer, new_ephemeral: NewEphemeral, listeners: list[Listener]
) -> None:
    hearing, speaking = (
        new_ephemeral(redis_server.url, "replaced", answer_s=0.5, probe_every_s=0.05)
        for _ in range(2)
    )
    listener = Listener(Signals(hearing))
    listeners.append(listener)
    await listener.listens()
    redis_server.kill()
    with pytest.raises(EphemeralDown):
        await Signals(speaking).cancel(uuid7(), None)
    redis_server.start()
    await eventually(lambda: speaking.alive)
    job = uuid7()
    # Said perhaps before the listener has reconnected: it must be heard all the same.
    await Signals(speaking).cancel(job, None)
    await eventually(lambda: Cancel(job, None) in listener.heard)
