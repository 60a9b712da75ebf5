"""Row 18: `<prefix>.dead` mirrors the open letters, and its odd guests get letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import orjson
import pytest

from llmgine_workers import clock, dead_letters
from llmgine_workers.broker import Broker, Message, messages, open_broker
from llmgine_workers.broker.declare import declare
from llmgine_workers.ledger import letters
from llmgine_workers.ledger import replay as ledger_replay
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from tests.engine.stand_ins import MemoryBroker
from tests.ledger.rows import REJECTED, Place

pytestmark = pytest.mark.integration


@dataclass
class Rooms:
    """What the mirror needs, and what the tests look at."""

    ledger: Ledger
    broker: Broker
    prefix: str

    def __post_init__(self) -> None:
        self.place = Place(self.ledger)
        self.queue = f"{self.prefix}.dead"

    async def fail(self, count: int = 1) -> list[UUID]:
        """So many jobs that failed; their letters."""
        found = []
        for _ in range(count):
            (key,) = await self.place.submit()
            taken = await self.place.end(key.job, "failed", REJECTED)
            assert taken.letter
            found.append(taken.letter)
        return found

    async def resolve(self, letter: UUID) -> None:
        """Somebody closes a letter."""
        async with self.ledger.transaction() as connection:
            assert await ledger_replay.close_letter(
                connection, letter, "discarded", "ada"
            )

    async def depth(self) -> int | None:
        """Messages in the mirror."""
        return await self.broker.depth(self.queue)


@pytest.fixture(scope="module")
async def migrated(postgres_url: str) -> AsyncIterator[Ledger]:
    """Apart from other tests' letters: a mirror is of all there are."""
    ledger = Ledger(postgres_url, "letters_test")
    await migrate(ledger)
    yield ledger
    await ledger.close()


@pytest.fixture
async def empty(migrated: Ledger) -> Ledger:
    """A ledger without letters, whose mirror nobody is rotating."""
    async with migrated.connection() as connection:
        await connection.execute("delete from letters")
        await connection.execute("update mirror set dirty = false, rotating_until = null")
    return migrated


@pytest.fixture
def rooms(empty: Ledger) -> Rooms:
    """Over a broker in memory, which says what it was told."""
    prefix = f"m{uuid4().hex[:10]}"
    return Rooms(empty, MemoryBroker(prefix), prefix)


@pytest.fixture
async def real(empty: Ledger, amqp_url: str) -> AsyncIterator[Rooms]:
    """Over RabbitMQ."""
    prefix = f"r{uuid4().hex[:10]}"
    await declare(amqp_url, prefix, ["openai"])
    broker = open_broker(amqp_url, prefix)
    yield Rooms(empty, broker, prefix)
    await broker.close()


def mirrored(rooms: Rooms) -> list[UUID]:
    assert isinstance(rooms.broker, MemoryBroker)
    return [UUID(message.id) for message in rooms.broker.queues[rooms.queue]]


async def test_open_letters_are_published_once(rooms: Rooms) -> None:
    found = await rooms.fail(3)
    assert await dead_letters.mirror(rooms) == 3
    assert await dead_letters.mirror(rooms) == 0
    assert sorted(mirrored(rooms)) == sorted(found)


async def test_a_published_letter_says_what_the_ledger_knows(rooms: Rooms) -> None:
    (letter,) = await rooms.fail()
    await dead_letters.mirror(rooms)
    assert isinstance(rooms.broker, MemoryBroker)
    (message,) = rooms.broker.queues[rooms.queue]
    body = orjson.loads(message.body)
    assert body == await dead_letters.show(rooms, letter)
    assert body["id"] == str(letter)
    assert body["error"]["code"] == "provider_rejected"
    assert (body["state"], body["raw"], body["cost_usd"]) == ("open", None, None)
    assert message.type == messages.LETTER_TYPE


async def test_what_the_broker_does_not_confirm_is_published_later(
    rooms: Rooms,
) -> None:
    assert isinstance(rooms.broker, MemoryBroker)
    found = await rooms.fail(2)
    rooms.broker.up = False
    assert await dead_letters.mirror(rooms) == 0
    rooms.broker.up = True
    assert await dead_letters.mirror(rooms) == 2
    assert sorted(mirrored(rooms)) == sorted(found)


async def test_many_schedulers_publish_each_letter_once(rooms: Rooms) -> None:
    found = await rooms.fail(20)
    published = await asyncio.gather(*(dead_letters.mirror(rooms) for _ in range(5)))
    assert sum(published) == 20
    assert sorted(mirrored(rooms)) == sorted(found)


async def test_a_resolved_letter_leaves_the_mirror_at_the_next_rotate(
    rooms: Rooms,
) -> None:
    kept, resolved = await rooms.fail(2)
    await dead_letters.mirror(rooms)
    await rooms.resolve(resolved)
    assert set(mirrored(rooms)) == {kept, resolved}
    await dead_letters.rotate_if_due(rooms)
    assert mirrored(rooms) == [kept]


async def test_a_letter_resolved_before_it_was_mirrored_never_arrives(
    rooms: Rooms,
) -> None:
    (letter,) = await rooms.fail()
    await rooms.resolve(letter)
    assert await dead_letters.mirror(rooms) == 0


async def test_a_message_that_is_there_twice_is_there_once_afterwards(
    rooms: Rooms,
) -> None:
    (letter,) = await rooms.fail()
    await dead_letters.mirror(rooms)
    assert isinstance(rooms.broker, MemoryBroker)
    rooms.broker.queues[rooms.queue] *= 3
    done = await dead_letters.reconcile(rooms)
    assert done == {"kept": 1, "removed": 2, "unprocessable": 0, "published": 0}
    assert mirrored(rooms) == [letter]


async def test_a_purged_mirror_is_filled_again(rooms: Rooms) -> None:
    found = await rooms.fail(4)
    await dead_letters.mirror(rooms)
    assert isinstance(rooms.broker, MemoryBroker)
    rooms.broker.queues.clear()
    await dead_letters.rotate_if_due(rooms)
    assert sorted(mirrored(rooms)) == sorted(found)


async def test_letters_marked_by_a_publisher_that_died_are_published_at_a_rotate(
    rooms: Rooms,
) -> None:
    (letter,) = await rooms.fail()
    assert await letters.take_unmirrored(rooms.ledger, 500)
    assert await dead_letters.mirror(rooms) == 0
    await dead_letters.rotate_if_due(rooms)
    assert mirrored(rooms) == [letter]


RAW = Message(
    "x", b"\xff\xfe not JSON", {"x-death": [{"reason": "rejected", "queue": "q"}]}
)


async def test_what_nobody_can_read_becomes_a_letter_of_its_own(rooms: Rooms) -> None:
    assert isinstance(rooms.broker, MemoryBroker)
    rooms.broker.queues[rooms.queue].append(RAW)
    done = await dead_letters.reconcile(rooms)
    assert done["unprocessable"] == 1
    (shown,) = await dead_letters.list_open(rooms)
    assert shown["error"]["code"] == "unprocessable"
    assert shown["error"]["message"] == "rejected from q"
    assert shown["raw"] == "\\xff\\xfe not JSON"
    assert (shown["job"], shown["tenant"]) == (None, None)
    assert mirrored(rooms) == [UUID(shown["id"])]
    assert (await dead_letters.reconcile(rooms))["unprocessable"] == 0


async def test_a_dead_lettered_hint_is_dropped_for_the_ledger_has_it(
    rooms: Rooms,
) -> None:
    """Whatever it pointed at, the lost-hint rule brings it back if it still matters."""
    assert isinstance(rooms.broker, MemoryBroker)
    hint = messages.hint(clock.uuid7(), "draft", 0, "summarize")
    rooms.broker.queues[rooms.queue].append(hint)
    await dead_letters.reconcile(rooms)
    assert mirrored(rooms) == []
    assert await dead_letters.list_open(rooms) == []


async def test_one_rotates_at_a_time(rooms: Rooms) -> None:
    assert await letters.begin_rotate(rooms.ledger)
    await rooms.fail()
    nothing = {"kept": 0, "removed": 0, "unprocessable": 0, "published": 0}
    assert await dead_letters.reconcile(rooms) == nothing
    await letters.end_rotate(rooms.ledger)
    assert (await dead_letters.reconcile(rooms))["published"] == 1


async def test_a_rotate_that_fails_lets_the_next_one_try(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> int:
        raise ZeroDivisionError

    (letter,) = await rooms.fail()
    with monkeypatch.context() as patched:
        patched.setattr(rooms.broker, "mirror", broken)
        with pytest.raises(ZeroDivisionError):
            await dead_letters.reconcile(rooms)
    await dead_letters.reconcile(rooms)
    assert mirrored(rooms) == [letter]


async def test_a_rotate_of_a_dead_scheduler_ends_after_a_minute(rooms: Rooms) -> None:
    assert await letters.begin_rotate(rooms.ledger)
    assert not await letters.begin_rotate(rooms.ledger)
    await rooms.place.rows(
        "update mirror set rotating_until = rotating_until - interval '1 minute'"
    )
    assert await letters.begin_rotate(rooms.ledger)


async def test_nothing_is_rotated_while_nothing_changed(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0

    async def counted(_: object) -> int:
        nonlocal passes
        passes += 1
        return 0

    await rooms.fail(2)
    await dead_letters.mirror(rooms)
    monkeypatch.setattr(rooms.broker, "mirror", counted)
    await dead_letters.rotate_if_due(rooms)
    assert passes == 0


async def test_a_broker_that_is_away_is_not_rotated(rooms: Rooms) -> None:
    assert isinstance(rooms.broker, MemoryBroker)
    (letter,) = await rooms.fail()
    await dead_letters.mirror(rooms)
    rooms.broker.up = False
    await rooms.resolve(letter)
    await dead_letters.rotate_if_due(rooms)
    assert await letters.is_dirty(rooms.ledger)


async def test_the_real_mirror_holds_the_open_letters_and_nothing_else(
    real: Rooms,
) -> None:
    found = await real.fail(30)
    assert await dead_letters.mirror(real) == 30
    assert await real.depth() == 30
    for letter in found[::3]:
        await real.resolve(letter)
    await real.broker.publish(
        real.queue, [RAW, messages.hint(clock.uuid7(), "draft", 0, "summarize")]
    )

    await dead_letters.rotate_if_due(real)

    assert await real.depth() == 21, "twenty that are open, one of the unreadable"
    states = await letters.states(real.ledger, await _ids(real))
    assert set(states.values()) == {"open"}
    assert len(states) == 21
    assert len(await dead_letters.list_open(real)) == 21


async def _ids(rooms: Rooms) -> Sequence[UUID]:
    """The letters in the queue, by a pass that keeps all."""
    seen: list[UUID] = []

    async def keep(found: Sequence[messages.DeadMessage]) -> Sequence[bool]:
        seen.extend(message.letter_id for message in found if message.letter_id)
        return [True] * len(found)

    await rooms.broker.mirror(keep)
    return seen


async def test_looking_at_the_real_mirror_ten_times_loses_nothing(real: Rooms) -> None:
    found = await real.fail(5)
    await dead_letters.mirror(real)
    for _ in range(10):
        done = await dead_letters.reconcile(real)
        assert done["kept"] == 5
    assert sorted(await _ids(real)) == sorted(found)


async def test_a_list_is_the_newest_first_and_bounded(rooms: Rooms) -> None:
    found = await rooms.fail(4)
    shown = await dead_letters.list_open(rooms, limit=3)
    assert [UUID(one["id"]) for one in shown] == sorted(found, reverse=True)[:3]
    await rooms.resolve(found[0])
    assert str(found[0]) not in {one["id"] for one in await dead_letters.list_open(rooms)}


async def test_a_letter_is_shown_by_its_id_or_its_jobs(rooms: Rooms) -> None:
    (letter,) = await rooms.fail()
    by_id = await dead_letters.show(rooms, letter)
    assert by_id is not None
    assert await dead_letters.show(rooms, UUID(by_id["job"])) == by_id
    assert await dead_letters.show(rooms, clock.uuid7()) is None
