"""The shared breaker: every change atomic, exactly one probe in the whole cluster."""

from __future__ import annotations

import asyncio

import pytest

from llmgine_workers.ephemeral.breaker_store import (
    ANSWERED,
    FAULT,
    UNREACHABLE,
    BreakerState,
    BreakerStore,
    keys_of,
)
from llmgine_workers.ephemeral.connection import Ephemeral
from tests.ephemeral.conftest import PATIENT_S, NewEphemeral, eventually_true

pytestmark = pytest.mark.integration
P, M = "openai", "gpt-5-mini"


@pytest.fixture
def store(ephemeral: Ephemeral) -> BreakerStore:
    return BreakerStore(ephemeral)


async def open_and_due(store: BreakerStore) -> None:
    await store.open(P, M, None, 0.001)

    async def due() -> bool:
        left = (await store.look(P, M)).reopens_in_s
        return left is not None and left <= 0

    await eventually_true(due)


async def test_calls_and_faults_are_counted_and_an_answer_ends_a_row(
    store: BreakerStore,
) -> None:
    for how in (ANSWERED, FAULT, UNREACHABLE, UNREACHABLE):
        state = await store.report(P, M, how)
    counted = (state.calls, state.faults, state.in_a_row, state.unreachable)
    assert counted == (4, 3, 3, 2)
    state = await store.report(P, M, FAULT)
    assert (state.in_a_row, state.unreachable) == (4, 0)
    state = await store.report(P, M, ANSWERED)
    assert (state.calls, state.faults, state.in_a_row) == (6, 4, 0)
    assert not state.is_open
    assert await store.look(P, "another-model") == BreakerState()


async def test_what_was_long_ago_is_not_counted(
    store: BreakerStore, ephemeral: Ephemeral
) -> None:
    await store.report(P, M, ANSWERED)
    key = keys_of(ephemeral, P, M)[2]
    (field,) = await ephemeral.command("HKEYS", key)
    await ephemeral.command("DEL", key)
    earlier = int(field[1:]) - 11
    await ephemeral.command("HSET", key, f"n{earlier}", 50, f"f{earlier}", 50)
    state = await store.report(P, M, FAULT)
    assert (state.calls, state.faults) == (1, 1)
    assert await ephemeral.command("HLEN", key) == 2


async def test_the_open_models_of_a_provider_are_known(store: BreakerStore) -> None:
    await store.open(P, M, None, 15)
    await store.open(P, "due", None, 0.001)
    await store.open("anthropic", "other", None, 15)

    async def one_is_due() -> bool:
        return (await store.shut(P)).get("due") == 0

    await eventually_true(one_is_due)
    assert 14 < (await store.shut(P))[M] <= 15
    await store.lease(P, "due", "probe", 30)
    assert (await store.shut(P))["due"] > 25
    await store.close(P, "due", "probe")
    assert set(await store.shut(P)) == {M}


async def test_of_many_that_want_to_open_it_one_does(store: BreakerStore) -> None:
    opened = await asyncio.gather(*(store.open(P, M, None, 15) for _ in range(20)))
    assert sum(state.mine for state in opened) == 1
    state = await store.look(P, M)
    assert state.openings == 1
    assert state.reopens_in_s is not None
    assert 14 < state.reopens_in_s <= 15


async def test_an_open_one_counts_and_forgets_nothing(store: BreakerStore) -> None:
    await store.open(P, M, None, 15)
    for how in (FAULT, ANSWERED):
        state = await store.report(P, M, how)
        assert (state.calls, state.is_open) == (0, True)


async def test_no_probe_goes_before_its_time(store: BreakerStore) -> None:
    assert not (await store.lease(P, M, "early", 30)).mine  # closed: none is needed
    await store.open(P, M, None, 15)
    assert not (await store.lease(P, M, "early", 30)).mine


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
        *(cluster[n % 5].lease(P, M, f"probe-{n}", 30) for n in range(50))
    )
    assert sum(state.mine for state in asked) == 1
    assert all(state.probing_s > 25 for state in asked)


async def test_a_probe_that_went_well_closes_it(store: BreakerStore) -> None:
    await open_and_due(store)
    await store.lease(P, M, "probe", 30)
    assert not (await store.close(P, M, "another")).mine
    assert (await store.close(P, M, "probe")).mine
    assert await store.look(P, M) == await store.look(P, "never-heard-of")


async def test_a_probe_that_failed_opens_it_again_and_counts_the_opening(
    store: BreakerStore,
) -> None:
    await open_and_due(store)
    await store.lease(P, M, "probe", 30)
    assert not (await store.open(P, M, "another", 30)).mine
    state = await store.open(P, M, "probe", 30)
    assert (state.mine, state.openings, state.probing_s) == (True, 2, 0.0)


async def test_a_released_or_expired_probe_lets_the_next_one_go(
    store: BreakerStore,
) -> None:
    await open_and_due(store)
    assert (await store.lease(P, M, "first", 30)).mine
    await store.release(P, M, "not-the-holder")
    assert not (await store.lease(P, M, "second", 30)).mine
    await store.release(P, M, "first")
    assert (await store.lease(P, M, "second", 0.01)).mine

    async def third_goes() -> bool:
        return (await store.lease(P, M, "third", 30)).mine

    await eventually_true(third_goes)
