"""Row 18: `<prefix>.dead` mirrors the open letters, and its odd guests get letters."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pika
import pytest

from llmgine_workers import clock, dead_letters
from llmgine_workers.broker import Broker, Judge, Message, messages, open_broker
from llmgine_workers.broker.declare import declare
from llmgine_workers.errors import LlmgineError
from llmgine_workers.events.emit import Events
from llmgine_workers.ledger import letters
from llmgine_workers.ledger import mirror as ledger_mirror
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.ledger.records import Billed
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
        assert await letters.close(self.ledger, [letter], "resolved", "ada", None)

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
        await connection.execute("delete from raw_deliveries")
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


def whats(done: dead_letters.Pass) -> list[str]:
    return [one.what for one in done.differences]


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
    shown = await dead_letters.show(rooms, letter)
    assert shown is not None
    assert {name: shown[name] for name in body} == body
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
    assert (done.kept, whats(done)) == (1, ["twice", "twice"])
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
    assert await ledger_mirror.take_unmirrored(rooms.ledger, 500)
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
    (shown,) = await dead_letters.listed(rooms)
    assert done.differences == [
        dead_letters.Difference("foreign", UUID(shown["id"]), "rejected from q")
    ]
    assert shown["error"]["code"] == "unprocessable"
    assert shown["error"]["message"] == "rejected from q"
    assert shown["raw"] == "\\xff\\xfe not JSON"
    assert (shown["job"], shown["tenant"]) == (None, None)
    assert mirrored(rooms) == [UUID(shown["id"])]
    assert (await dead_letters.reconcile(rooms)).differences == []


async def test_a_pass_that_is_killed_before_its_acknowledgement_writes_nothing_twice(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two messages alike are two letters; met again, they are the same two."""
    assert isinstance(rooms.broker, MemoryBroker)
    rooms.broker.queues[rooms.queue] += [RAW, RAW]
    judge_all = rooms.broker.mirror

    async def killed(judge: Judge) -> int:
        before = list(rooms.broker.queues[rooms.queue])  # type: ignore[attr-defined]
        await judge_all(judge)
        rooms.broker.queues[rooms.queue] = before  # type: ignore[attr-defined]
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(rooms.broker, "mirror", killed)
        with pytest.raises(ZeroDivisionError):
            await dead_letters.reconcile(rooms)
    assert len(await dead_letters.listed(rooms)) == 2
    done = await dead_letters.reconcile(rooms)
    assert [one.letter for one in done.differences if one.what == "foreign"] == [
        None,
        None,
    ]
    assert len(await dead_letters.listed(rooms)) == 2
    assert (await dead_letters.reconcile(rooms)).differences == []
    rooms.broker.queues[rooms.queue].append(RAW)
    await dead_letters.reconcile(rooms)
    assert len(await dead_letters.listed(rooms)) == 3, "one that came later is another"


async def test_a_dead_lettered_hint_is_dropped_for_the_ledger_has_it(
    rooms: Rooms,
) -> None:
    """Whatever it pointed at, the lost-hint rule brings it back if it still matters."""
    assert isinstance(rooms.broker, MemoryBroker)
    hint = messages.hint(clock.uuid7(), "draft", 0, "summarize")
    rooms.broker.queues[rooms.queue].append(hint)
    await dead_letters.reconcile(rooms)
    assert mirrored(rooms) == []
    assert await dead_letters.listed(rooms) == []


async def test_one_works_on_the_mirror_at_a_time(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "TURN_S", 0.0)
    async with ledger_mirror.turn(rooms.ledger) as is_ours:
        assert is_ours
        await rooms.fail()
        assert await dead_letters.mirror(rooms) == 0
        with pytest.raises(LlmgineError, match="another pass"):
            await dead_letters.reconcile(rooms)
    assert whats(await dead_letters.reconcile(rooms)) == ["missing"]


async def test_a_pass_that_was_cut_short_takes_nothing_for_missing(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(_: Judge) -> int:
        return 0

    await rooms.fail(2)
    await dead_letters.mirror(rooms)
    with monkeypatch.context() as patched:
        patched.setattr(rooms.broker, "mirror", cut)
        assert (await dead_letters.reconcile(rooms)).differences == []
    assert await ledger_mirror.is_dirty(rooms.ledger), "it is to be done again"


async def test_nothing_can_be_reconciled_while_the_broker_is_away(rooms: Rooms) -> None:
    assert isinstance(rooms.broker, MemoryBroker)
    rooms.broker.up = False
    with pytest.raises(LlmgineError) as refused:
        await dead_letters.reconcile(rooms)
    assert refused.value.code == "dependency_down"


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
    first = ledger_mirror.turn(rooms.ledger)
    assert await first.__aenter__()
    async with ledger_mirror.turn(rooms.ledger) as is_ours:
        assert not is_ours
    await rooms.place.rows(
        "update mirror set rotating_until = rotating_until - interval '1 minute'"
    )
    async with ledger_mirror.turn(rooms.ledger) as is_ours:
        assert is_ours


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
    assert await ledger_mirror.is_dirty(rooms.ledger)


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
    states = await ledger_mirror.states(real.ledger, await _ids(real))
    assert set(states.values()) == {"open"}
    assert len(states) == 21
    assert len(await dead_letters.listed(real)) == 21


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
        assert (done.kept, done.differences) == (5, [])
    assert sorted(await _ids(real)) == sorted(found)


async def test_reconcile_names_each_difference_and_mends_it(
    real: Rooms, amqp_url: str
) -> None:
    """Ten deleted and five injected by somebody else's hand: fifteen, then none."""
    found = await real.fail(30)
    await dead_letters.mirror(real)
    deleted = await asyncio.to_thread(_tamper, amqp_url, real.queue, 10, 5)
    done = await dead_letters.reconcile(real)
    assert Counter(whats(done)) == {"missing": 10, "foreign": 5}
    missing = {one.letter for one in done.differences if one.what == "missing"}
    assert missing == deleted
    assert done.kept == 20
    again = await dead_letters.reconcile(real)
    assert (again.kept, again.differences) == (35, [])
    assert set(found) < set(await _ids(real))


def _tamper(url: str, queue: str, deleted: int, injected: int) -> set[UUID]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    gone = set()
    for _ in range(deleted):
        deliver, properties, _ = channel.basic_get(queue)
        channel.basic_ack(deliver.delivery_tag)
        gone.add(UUID(properties.message_id))
    for n in range(injected):
        channel.basic_publish("", queue, f"<script>{n}</script>".encode())
    connection.close()
    return gone


async def test_a_list_is_the_newest_first_and_bounded(rooms: Rooms) -> None:
    found = await rooms.fail(4)
    shown = await dead_letters.listed(rooms, limit=3)
    assert [UUID(one["id"]) for one in shown] == sorted(found, reverse=True)[:3]
    await rooms.resolve(found[0])
    assert str(found[0]) not in {one["id"] for one in await dead_letters.listed(rooms)}


async def test_a_letter_is_shown_by_its_id_or_its_jobs(rooms: Rooms) -> None:
    (letter,) = await rooms.fail()
    by_id = await dead_letters.show(rooms, letter)
    assert by_id is not None
    assert await dead_letters.show(rooms, UUID(by_id["job"])) == by_id
    assert await dead_letters.show(rooms, clock.uuid7()) is None


async def test_a_letter_shows_the_calls_of_its_run_and_the_request(rooms: Rooms) -> None:
    (key,) = await rooms.place.submit()
    claim = await rooms.place.claimed(key)
    await rooms.place.settle(claim, "failed", failure=REJECTED, billed=Billed(
        cost=7, status=400, request_id="req_8f"
    ))  # fmt: skip
    letter = await rooms.place.lock_and_end(key.job, replace(REJECTED, step=key.path))
    assert letter is not None
    shown = await dead_letters.show(rooms, letter)
    assert shown is not None
    (attempt,) = shown["attempts"]
    assert (attempt["step"], attempt["n"], attempt["state"]) == (key.path, 1, "failed")
    assert (attempt["status"], attempt["request_id"]) == (400, "req_8f")
    assert (attempt["cost_usd"], shown["cost_usd"]) == (7e-06, 7e-06)
    assert shown["request"] == {"messages": []}


async def test_letters_are_found_by_what_they_say(rooms: Rooms) -> None:
    wanted = letters.Wanted
    one, two = await rooms.fail(2)
    (row,) = [o for o in await dead_letters.listed(rooms) if o["id"] == str(one)]
    born = datetime.fromisoformat(row["created_at"]) + timedelta(milliseconds=1)

    async def found(**filters: Any) -> set[UUID]:
        rows = await dead_letters.listed(rooms, wanted(**filters))
        return {UUID(row["id"]) for row in rows}

    for name in ("tenant", "chain", "step", "pool", "fingerprint"):
        if row[name] is not None:
            assert one in await found(**{name: row[name]}), name
        assert await found(**{name: "another"}) == set(), name
    assert await found(tenant=row["tenant"]) == {one}
    assert await found(code="provider_rejected") == {one, two}
    assert await found(until=born - timedelta(seconds=9)) == set()
    assert await found(since=born + timedelta(minutes=1)) == set()
    await rooms.resolve(one)
    assert await found(state="resolved") == {one}
    assert await found(state=None) == {one, two}


async def test_a_group_that_was_ignored_is_open_again_with_the_next_letter(
    rooms: Rooms,
) -> None:
    await rooms.fail(3)
    (group,) = await dead_letters.groups(rooms)
    assert (group["count"], group["code"]) == (3, "provider_rejected")
    assert group["first_seen"] <= group["last_seen"]
    closing = Closing(rooms.ledger, rooms.broker, rooms.prefix, Events([]))
    wanted = letters.Wanted(fingerprint=group["fingerprint"])
    assert len(await dead_letters.close(closing, wanted, "ignored", "ada")) == 3
    assert await dead_letters.groups(rooms) == []
    (ignored,) = await dead_letters.groups(rooms, letters.Wanted(state="ignored"))
    assert (ignored["state"], ignored["count"]) == ("ignored", 3)
    (letter,) = await rooms.fail()
    (again,) = await dead_letters.groups(rooms)
    assert (again["count"], again["sample"]) == (1, str(letter))
    assert again["fingerprint"] == group["fingerprint"]


@dataclass
class Closing(Rooms):
    """And somebody who hears of it."""

    events: Events
