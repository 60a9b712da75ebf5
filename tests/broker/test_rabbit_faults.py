"""What happens to publishers when RabbitMQ is stopped, frozen, replaced or full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pika
import pytest

from llmgine_workers import clock
from llmgine_workers.broker import Broker, Message, messages
from llmgine_workers.broker.declare import declare
from tests.broker.conftest import Place, make_place
from tests.servers import Rabbit

pytestmark = pytest.mark.integration


def hints(count: int) -> list[Message]:
    return [messages.hint(clock.uuid7(), "draft", 0, "summarize") for _ in range(count)]


async def until(holds: Callable[[], Awaitable[bool]], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.02)


async def timed(
    broker: Broker, queue: str, sent: list[Message]
) -> tuple[list[Message], float]:
    began = time.monotonic()
    failed = await broker.publish(queue, sent)
    return failed, time.monotonic() - began


@pytest.fixture
async def place(rabbit: Rabbit) -> AsyncIterator[Place]:
    """On the RabbitMQ of this module, which a test may break."""
    place = await make_place(rabbit.url)
    yield place
    rabbit.resume()
    for broker in place.opened:
        await broker.close()


@pytest.fixture
async def broker(place: Place) -> Broker:
    """In use already."""
    broker = place.open()
    assert await broker.publish(place.queue, hints(1)) == []
    return broker


async def test_unroutable_messages_are_not_confirmed_but_those_around_them_are(
    place: Place, broker: Broker
) -> None:
    lost = hints(3)
    twice = hints(1) * 2
    answers = await asyncio.gather(
        broker.publish(place.queue, hints(200)),
        broker.publish(f"{place.prefix}.nowhere", lost),
        broker.publish(f"{place.prefix}.nowhere", twice),
        broker.publish(place.queue, [*lost, *twice]),
    )
    assert list(answers) == [[], lost, twice, []]
    assert broker.up


async def test_messages_that_the_queue_refuses_are_not_confirmed(
    place: Place, broker: Broker
) -> None:
    full = f"{place.prefix}.full"
    with pika.BlockingConnection(pika.URLParameters(place.url)) as connection:
        connection.channel().queue_declare(
            full, arguments={"x-max-length": 5, "x-overflow": "reject-publish"}
        )
    sent = hints(20)
    failed = await broker.publish(full, sent)
    assert failed == sent[5:]
    assert await broker.depth(full) == 5
    assert broker.up


async def test_a_stopped_broker_is_noticed_and_an_empty_one_in_its_place_is_used(
    place: Place, broker: Broker, rabbit: Rabbit
) -> None:
    await asyncio.to_thread(rabbit.stop)
    sent = hints(10)
    failed, took = await timed(broker, place.queue, sent)
    assert failed == sent
    assert took < 6
    assert not broker.up
    failed, took = await timed(broker, place.queue, sent)
    assert failed == sent
    assert took < 0.1
    assert await broker.depth(place.queue) is None

    await asyncio.to_thread(rabbit.fresh)
    await until(lambda: _is_up(broker), 2.5)
    failed, took = await timed(broker, place.queue, sent)
    assert failed == sent  # returned: the queue is gone
    assert took < 1

    await declare(place.url, place.prefix, ["openai"])
    assert await broker.publish(place.queue, sent) == []


async def _is_up(broker: Broker) -> bool:
    return broker.up


async def test_messages_on_the_wire_when_the_broker_is_killed_are_not_confirmed(
    place: Place, broker: Broker, rabbit: Rabbit
) -> None:
    sent = hints(10_000)
    publishing = asyncio.create_task(timed(broker, place.queue, sent))
    await until(lambda: _depth_over(broker, place.queue, 500), 5)
    await asyncio.to_thread(rabbit.kill)
    failed, took = await publishing
    assert took < 6
    assert 0 < len(failed) < len(sent)

    await asyncio.to_thread(rabbit.start)
    arrived = await asyncio.to_thread(_task_ids, place)
    confirmed = {message.id for message in sent} - {message.id for message in failed}
    assert confirmed <= arrived


def _task_ids(place: Place) -> set[str]:
    with pika.BlockingConnection(pika.URLParameters(place.url)) as connection:
        coming = connection.channel().consume(
            place.queue, auto_ack=True, inactivity_timeout=0.5
        )
        return {p.headers["id"] for method, p, _ in iter(lambda: next(coming), _END)}


_END = (None, None, None)


async def _depth_over(broker: Broker, queue: str, least: int) -> bool:
    return (await broker.depth(queue) or 0) > least


async def test_a_frozen_broker_costs_five_seconds_once(
    place: Place, broker: Broker, rabbit: Rabbit
) -> None:
    rabbit.pause()
    sent = hints(10)
    began = time.monotonic()
    answers = await asyncio.gather(
        broker.publish(place.queue, sent),
        broker.depth(place.queue),
        broker.mirror(_refuse_to_judge),
    )
    assert list(answers) == [sent, None, 0]
    assert 4.5 < time.monotonic() - began < 6
    began = time.monotonic()
    assert await broker.publish(place.queue, sent) == sent
    assert await broker.depth(place.queue) is None
    assert time.monotonic() - began < 0.1

    rabbit.resume()

    async def works() -> bool:
        return await broker.publish(place.queue, sent) == []

    await until(works, 3)


async def _refuse_to_judge(_: object) -> list[bool]:
    raise AssertionError("there was nothing to judge")


async def test_while_the_broker_blocks_publishers_nothing_waits(
    place: Place, broker: Broker, rabbit: Rabbit
) -> None:
    rabbit.ctl("set_vm_memory_high_watermark", "0.000001")
    try:
        sent = hints(5)
        failed, took = await timed(broker, place.queue, sent)
        assert failed == sent
        assert took < 6
        assert not broker.up
        failed, took = await timed(broker, place.queue, sent)
        assert failed == sent
        assert took < 0.1
    finally:
        rabbit.ctl("set_vm_memory_high_watermark", "0.4")

    async def works() -> bool:
        return await broker.publish(place.queue, sent) == []

    await until(works, 5)


async def test_close_does_not_wait_for_a_frozen_broker(
    place: Place, broker: Broker, rabbit: Rabbit
) -> None:
    rabbit.pause()
    waiting = asyncio.create_task(broker.publish(place.queue, hints(3)))
    await asyncio.sleep(0)
    began = time.monotonic()
    await broker.close()
    assert time.monotonic() - began < 2
    assert len(await waiting) == 3
