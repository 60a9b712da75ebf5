"""The shared breaker: every change atomic, exactly one probe in the whole cluster."""

from __future__ import annotations

import asyncio

import pytest

from llmgine_workers.ephemeral.breaker_store import BreakerStore
from llmgine_workers.ephemeral.connection import Ephemeral
from tests.ephemeral.conftest import PATIENT_S, NewEphemeral, eventually_true

pytestmark = pytest.mark.integration
P = "openai"


@pytest.fixture
def store(ephemeral: Ephemeral) -> BreakerStore:
    return BreakerStore(ephemeral)


async def open_and_due(store: BreakerStore) -> None:
    await store.open(P, None, 0.001)

    async def due() -> bool:
        left = (await store.look(P)).reopens_in_s
        return left is not None and left <= 0

    await eventually_true(due)


async def test_failures_in_a_row_are_counted_and_a_success_forgets_them(
    store: BreakerStore,
) -> None:
    assert (await store.look(P)).failures == 0
    assert [(await store.fail(P)).failures for _ in range(3)] == [1, 2, 3]
    assert (await store.succeed(P)).failures == 0
    assert not (await store.look(P)).is_open


async def test_of_many_that_want_to_open_it_one_does(store: BreakerStore) -> None:
    opened = await asyncio.gather(*(store.open(P, None, 15) for _ in range(20)))
    assert sum(state.mine for state in opened) == 1
    state = await store.look(P)
    assert state.openings == 1
    assert state.reopens_in_s is not None
    assert 14 < state.reopens_in_s <= 15


async def test_an_open_one_counts_and_forgets_nothing(store: BreakerStore) -> None:
    await store.open(P, None, 15)
    assert (await store.fail(P)).failures == 0
    assert (await store.succeed(P)).is_open


async def test_no_probe_goes_before_its_time(store: BreakerStore) -> None:
    assert not (await store.lease(P, "early", 30)).mine  # closed: none is needed
    await store.open(P, None, 15)
    assert not (await store.lease(P, "early", 30)).mine


async def test_one_probe_among_50_askers_of_the_cluster(
    redis_url: str, new_ephemeral: NewEphemeral, ephemeral: Ephemeral
) -> None:
    prefix = ephemeral.key()
    cluster = [
        BreakerStore(new_ephemeral(redis_url, prefix, answer_s=PATIENT_S))
        for _ in range(5)
    ]
    await open_and_due(cluster[0])
    asked = await asyncio.gather(
        *(cluster[n % 5].lease(P, f"probe-{n}", 30) for n in range(50))
    )
    assert sum(state.mine for state in asked) == 1
    assert all(state.probing_s > 25 for state in asked)


async def test_a_probe_that_went_well_closes_it(store: BreakerStore) -> None:
    await open_and_due(store)
    await store.lease(P, "probe", 30)
    assert not (await store.close(P, "another")).mine
    assert (await store.close(P, "probe")).mine
    assert await store.look(P) == await store.look("never-heard-of")


async def test_a_probe_that_failed_opens_it_again_and_counts_the_opening(
    store: BreakerStore,
) -> None:
    await open_and_due(store)
    await store.lease(P, "probe", 30)
    assert not (await store.open(P, "another", 30)).mine
    state = await store.open(P, "probe", 30)
    assert (state.mine, state.openings, state.probing_s) == (True, 2, 0.0)


async def test_a_released_or_expired_probe_lets_the_next_one_go(
    store: BreakerStore,
) -> None:
    await open_and_due(store)
    assert (await store.lease(P, "first", 30)).mine
    await store.release(P, "not-the-holder")
    assert not (await store.lease(P, "second", 30)).mine
    await store.release(P, "first")
    assert (await store.lease(P, "second", 0.01)).mine

    async def third_goes() -> bool:
        return (await store.lease(P, "third", 30)).mine

    await eventually_true(third_goes)
