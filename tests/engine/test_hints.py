"""Publishing in the background: bounded, and what fails is held in the ledger again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest

from llmgine_workers.broker import Message
from llmgine_workers.engine import hints as hints_room
from llmgine_workers.engine.hints import Hints
from llmgine_workers.engine.pools import Pools
from llmgine_workers.ledger import pools as ledger_pools
from llmgine_workers.ledger import release
from llmgine_workers.ledger.connection import Ledger, LedgerDown
from llmgine_workers.ledger.records import Released, StepKey
from tests.engine.line import until
from tests.engine.stand_ins import MemoryBroker
from tests.ledger.rows import Place

pytestmark = pytest.mark.integration


@pytest.fixture
def place(migrated: Ledger) -> Place:
    return Place(migrated)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker("hints")


@pytest.fixture
async def hints(place: Place, broker: MemoryBroker) -> AsyncIterator[Hints]:
    hints = Hints(broker, place.ledger, "hints")
    running = asyncio.create_task(hints.run())
    yield hints
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def released(place: Place, keys: Sequence[StepKey]) -> list[Released]:
    return [Released(key, place.pool, "summarize", 0) for key in keys]


async def held(place: Place, keys: Sequence[StepKey]) -> list[bool]:
    return [(await place.step_row(key))["released_at"] is None for key in keys]


async def test_what_is_offered_is_published_in_its_order(
    place: Place, broker: MemoryBroker, hints: Hints
) -> None:
    keys = [key for _ in range(5) for key in await place.submit()]
    hints.offer(released(place, keys))
    await hints.drain()
    published = broker.queues[f"hints.{place.pool}"]
    assert [str(key.job) in message.headers["argsrepr"] for key, message in
            zip(keys, published, strict=True)] == [True] * 5  # fmt: skip
    assert await held(place, keys) == [False] * 5


async def test_what_the_broker_does_not_confirm_is_held_again(
    place: Place, broker: MemoryBroker, hints: Hints
) -> None:
    keys = [key for _ in range(3) for key in await place.submit()]
    broker.up = False
    hints.offer(released(place, keys))
    await hints.drain()
    assert await held(place, keys) == [True] * 3


async def test_a_slow_broker_delays_no_submit_and_bounds_the_memory(
    place: Place, broker: MemoryBroker, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = asyncio.Event()

    async def stall(queue: str, messages: Sequence[Message]) -> list[Message]:
        await stalled.wait()
        return []

    monkeypatch.setattr(broker, "publish", stall)
    monkeypatch.setattr(hints_room, "BATCH", 1)
    most = hints._waiting.maxsize
    (key,) = await place.submit()
    late = await place.submit()
    hints.offer(released(place, [key]) * (most + 100))
    hints.offer(released(place, late))

    async def given_back() -> bool:
        return await held(place, late) == [True]

    await until(given_back, "what does not fit is held in the ledger")
    stalled.set()
    await hints.drain()


async def test_a_pool_releases_at_once_while_it_has_credit_and_no_backlog(
    place: Place,
) -> None:
    pools = Pools(place.ledger)
    assert pools.release_now("t", [(place.pool, 1)]) == [False], (
        "nothing is known of it yet"
    )
    await place.worker(slots=3)
    await release.tick(place.ledger, place.pool, 2000, 2)
    await pools.refresh()
    assert pools.live(place.pool) == 1
    assert pools.release_now("t", [(place.pool, 1)] * 3) == [True, True, False]
    await pools.refresh()
    assert pools.release_now("t", [(place.pool, 1)]) == [True], (
        "credit is looked up again"
    )


async def test_a_backlogged_pool_holds_everything_for_the_scheduler(
    place: Place,
) -> None:
    pools = Pools(place.ledger)
    await place.submit(released=False)
    await release.tick(place.ledger, place.pool, 2000, 2000)
    await pools.refresh()
    assert pools.release_now("t", [(place.pool, 1)]) == [False]


async def test_without_the_ledger_nothing_is_released_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = Pools(place.ledger)
    await release.tick(place.ledger, place.pool, 2000, 2000)
    running = asyncio.create_task(pools.run())
    await until(
        lambda: pools.release_now("t", [(place.pool, 1)]) == [True], "it has looked"
    )

    async def away(_: Ledger) -> None:
        raise LedgerDown("away")

    monkeypatch.setattr(ledger_pools, "states", away)
    await until(
        lambda: pools.release_now("t", [(place.pool, 1)]) == [False], "it has forgotten"
    )
    running.cancel()
