"""What every broker promises, over RabbitMQ and over Valkey alike."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from uuid import UUID

import psutil
import pytest

from llmgine_workers import clock
from llmgine_workers.broker import Broker, DeadMessage, Message, messages, open_broker
from llmgine_workers.errors import ConfigurationError
from tests.broker.conftest import Place

pytestmark = pytest.mark.integration


def hints(count: int) -> list[Message]:
    return [messages.hint(clock.uuid7(), "draft", 0, "summarize") for _ in range(count)]


def letters(count: int) -> list[Message]:
    return [messages.letter(clock.uuid7(), {"n": n}) for n in range(count)]


async def keep_all(found: Sequence[DeadMessage]) -> list[bool]:
    return [True for _ in found]


async def drop_all(found: Sequence[DeadMessage]) -> list[bool]:
    return [False for _ in found]


async def test_what_is_published_arrives_in_order_as_celery_reads_it(
    place: Place, broker: Broker
) -> None:
    job = clock.uuid7()
    sent = [messages.hint(job, f"notes.{n}.page", 1, "report") for n in range(3)]

    assert await broker.publish(place.queue, sent) == []

    found = place.read(place.queue)
    assert [m.payload for m in found] == [
        [[str(job), f"notes.{n}.page"], {}, {}] for n in range(3)
    ]
    assert [m.properties["correlation_id"] for m in found] == [m.id for m in sent]
    assert [m.headers["id"] for m in found] == [m.id for m in sent]
    assert {m.headers["shadow"] for m in found} == {"report/notes.page"}
    assert {m.content_type for m in found} == {"application/json"}


async def test_nothing_to_publish_is_nothing_lost(place: Place, broker: Broker) -> None:
    assert await broker.publish(place.queue, []) == []


async def test_it_is_up_once_it_was_used(place: Place, broker: Broker) -> None:
    assert not broker.up
    await broker.publish(place.queue, hints(1))
    assert broker.up


async def test_depth_counts_ready_messages(place: Place, broker: Broker) -> None:
    assert await broker.depth(place.queue) == 0
    await broker.publish(place.queue, hints(7))
    assert await broker.depth(place.queue) == 7


async def test_five_thousand_messages_are_pipelined(place: Place, broker: Broker) -> None:
    sent = hints(5_000)
    began = time.monotonic()
    failed = await broker.publish(place.queue, sent)
    assert failed == []
    assert time.monotonic() - began < 5
    assert await broker.depth(place.queue) == 5_000


async def test_publishers_at_the_same_time_get_their_own_answers(
    place: Place, broker: Broker
) -> None:
    answers = await asyncio.gather(
        *(broker.publish(place.queue, hints(100)) for _ in range(20))
    )
    assert answers == [[]] * 20
    assert await broker.depth(place.queue) == 2_000


async def test_publishing_leaves_the_loop_to_others(place: Place, broker: Broker) -> None:
    await broker.publish(place.queue, hints(1))
    gaps = []

    async def watch() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0)
            gaps.append(time.monotonic() - began)

    watching = asyncio.create_task(watch())
    await broker.publish(place.queue, hints(2_000))
    watching.cancel()
    assert len(gaps) > 20
    assert max(gaps) < 0.5


async def test_a_pass_keeps_exactly_what_the_judge_keeps(
    place: Place, broker: Broker
) -> None:
    sent = letters(1_200)
    kept = {message.id for message in sent[::3]}
    await broker.publish(place.dead, sent)

    async def judge(found: Sequence[DeadMessage]) -> list[bool]:
        return [str(message.letter_id) in kept for message in found]

    assert await broker.mirror(judge) == 1_200
    assert await broker.depth(place.dead) == 400
    found = place.read(place.dead)
    assert {m.properties["message_id"] for m in found} == kept
    assert [m.payload["n"] for m in found] == sorted(m.payload["n"] for m in found)


async def test_a_judge_sees_letters_as_they_were_published(
    place: Place, broker: Broker
) -> None:
    letter_id = clock.uuid7()
    await broker.publish(place.dead, [messages.letter(letter_id, {"code": "x", "n": 1})])
    seen: list[DeadMessage] = []

    async def judge(found: Sequence[DeadMessage]) -> list[bool]:
        seen.extend(found)
        return [True] * len(found)

    for _ in range(3):  # and also the copies of the copies
        await broker.mirror(judge)
    assert [m.letter_id for m in seen] == [letter_id] * 3
    assert [json.loads(m.body) for m in seen] == [{"code": "x", "n": 1}] * 3


async def test_many_passes_wear_nothing_out(place: Place, broker: Broker) -> None:
    await broker.publish(place.dead, letters(5))
    for _ in range(25):  # beyond RabbitMQ's default delivery limit of 20
        assert await broker.mirror(keep_all) == 5
    assert await broker.depth(place.dead) == 5


async def test_a_letter_that_is_there_twice_stays_once(
    place: Place, broker: Broker
) -> None:
    twice = messages.letter(clock.uuid7(), {})
    await broker.publish(place.dead, [twice, twice, *letters(1)])
    asked: list[UUID | None] = []

    async def judge(found: Sequence[DeadMessage]) -> list[bool]:
        asked.extend(message.letter_id for message in found)
        return [True] * len(found)

    assert await broker.mirror(judge) == 3
    assert await broker.depth(place.dead) == 2
    assert len(asked) == len(set(asked)) == 2


async def test_a_large_message_is_judged_by_its_beginning_and_kept_whole(
    place: Place, broker: Broker
) -> None:
    raw = Message("", b"x" * 200_000, content_type="application/octet-stream")
    await broker.publish(place.dead, [raw])
    sizes: list[tuple[UUID | None, int]] = []

    async def judge(found: Sequence[DeadMessage]) -> list[bool]:
        sizes.extend((message.letter_id, len(message.body)) for message in found)
        return [True] * len(found)

    await broker.mirror(judge)
    assert sizes == [(None, 65_536)]
    assert len(place.read(place.dead)[0].body) == 200_000


async def test_a_pass_over_an_empty_mirror_asks_nobody(
    place: Place, broker: Broker
) -> None:
    async def judge(found: Sequence[DeadMessage]) -> list[bool]:
        raise AssertionError("asked about nothing")

    assert await broker.mirror(judge) == 0


async def test_a_judge_that_fails_loses_nothing(place: Place, broker: Broker) -> None:
    await broker.publish(place.dead, letters(600))
    asked = 0

    async def judge(found: Sequence[DeadMessage]) -> list[bool]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise ConnectionError("the ledger is away")
        return [False] * len(found)

    with pytest.raises(ConnectionError):
        await broker.mirror(judge)
    left = 600 - 500
    deadline = time.monotonic() + 5  # what was taken comes back when the channel closes
    while await broker.depth(place.dead) != left:
        assert time.monotonic() < deadline
    assert await broker.mirror(drop_all) == left
    assert await broker.depth(place.dead) == 0


_KILLED_PASS = """
import asyncio, os, signal, sys
from llmgine_workers.broker import open_broker
from llmgine_workers.broker.rabbit import RabbitBroker
from llmgine_workers.broker.rabbit_session import Channel
from llmgine_workers.broker import valkey

url, prefix, moment = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "before the copies":
    RabbitBroker.publish = die
if moment == "before the removal":
    Channel.ack = die
if moment != "at the second question":
    valkey._Session.remove = die  # it makes no copies
asked = 0

async def judge(found):
    global asked
    asked += 1
    if moment == "at the second question" and asked == 2:
        die()
    return [int(message.letter_id) % 2 == 0 for message in found]

asyncio.run(open_broker(url, prefix).mirror(judge))
"""


@pytest.mark.parametrize(
    "moment", ["at the second question", "before the copies", "before the removal"]
)
async def test_a_pass_killed_half_way_loses_nothing_and_the_next_one_mends_it(
    place: Place, broker: Broker, moment: str
) -> None:
    sent = letters(800)
    kept = {message.id for message in sent if int(UUID(message.id)) % 2 == 0}
    await broker.publish(place.dead, sent)

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _KILLED_PASS, place.url, place.prefix, moment
    )
    assert await process.wait() == -signal.SIGKILL

    back = 800  # when the broker has noticed that the consumer died
    if moment == "at the second question":  # the first 500 were settled
        back -= sum(message.id not in kept for message in sent[:500])
    deadline = time.monotonic() + 10
    while (await broker.depth(place.dead) or 0) < back:
        assert time.monotonic() < deadline

    async def judge(found: Sequence[DeadMessage]) -> list[bool]:
        return [str(message.letter_id) in kept for message in found]

    await broker.mirror(judge)
    assert await broker.depth(place.dead) == len(kept)
    found = place.read(place.dead)
    assert {m.properties["message_id"] for m in found} == kept


async def test_after_close_nothing_is_published_and_nothing_hangs(
    place: Place, broker: Broker
) -> None:
    await broker.publish(place.queue, hints(1))
    await broker.close()
    sent = hints(2)
    assert await broker.publish(place.queue, sent) == sent
    assert await broker.depth(place.queue) is None
    assert await broker.mirror(keep_all) == 0
    assert not broker.up


def test_other_schemes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="sqs"):
        open_broker("sqs://x", "llmgine")


async def test_a_broker_opens_nothing_before_its_first_use() -> None:
    process = psutil.Process()
    for url in ("amqp://127.0.0.1:1", "redis://127.0.0.1:1"):
        before = (process.num_fds(), process.num_threads())
        broker = open_broker(url, "llmgine")
        assert (process.num_fds(), process.num_threads()) == before
        await broker.close()


@pytest.mark.parametrize("url", ["amqp://127.0.0.1:1", "redis://127.0.0.1:1"])
async def test_with_nobody_there_every_answer_is_quick(url: str) -> None:
    broker = open_broker(url, "llmgine")
    sent = hints(3)
    began = time.monotonic()
    assert await broker.publish("llmgine.openai", sent) == sent
    assert await broker.depth("llmgine.openai") is None
    assert await broker.mirror(keep_all) == 0
    assert time.monotonic() - began < 2
    await broker.close()
