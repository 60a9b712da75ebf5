"""The breaker opens for the provider's faults only, and one probe tells when to close."""

from __future__ import annotations

import asyncio
import random

import pybreaker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine_workers.ephemeral.breaker_store import (
    ANSWERED,
    FAULT,
    UNREACHABLE,
    BreakerState,
    BreakerStore,
)
from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.errors import FOLLOWS
from llmgine_workers.resilience.breaker import (
    FAULTS,
    Breakers,
    Pass,
    Shut,
    decide,
    reset_s,
)
from tests.ephemeral.conftest import NewEphemeral, eventually
from tests.resilience.conftest import Clock
from tests.servers import RedisServer

P, M = "openai", "gpt-5-mini"
NO_JITTER = 0.0


class Changes(list[tuple[str, float | None]]):
    """What a breaker told of its openings and closings."""

    async def note(self, provider: str, seconds: float | None) -> None:
        self.append((provider, seconds))


@pytest.fixture
def changes() -> Changes:
    return Changes()


def breakers(ephemeral: Ephemeral, changes: Changes, **options: object) -> Breakers:
    return Breakers(
        BreakerStore(ephemeral),
        changes.note,
        rng=lambda: NO_JITTER,
        **options,  # type: ignore[arg-type]
    )


async def fail(breakers: Breakers, times: int, how: str = UNREACHABLE) -> None:
    for _ in range(times):
        await breakers.report(P, M, None, how)


def counted(**counts: int) -> BreakerState:
    return BreakerState(**counts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "failing"),
    [
        (counted(calls=19, faults=19, in_a_row=19), False),
        (counted(calls=20, faults=7), False),
        (counted(calls=20, faults=8), True),
        (counted(calls=5000, faults=1999), False),
        (counted(calls=20, faults=20, in_a_row=20), True),
        (counted(calls=5000, faults=20, in_a_row=20), True),
        (counted(calls=4, faults=4, unreachable=4), False),
        (counted(calls=5, faults=5, unreachable=5), True),
    ],
)
def test_pybreaker_opens_it_for_a_ratio_or_a_row_that_the_store_has_counted(
    state: BreakerState, failing: bool
) -> None:
    opened = pybreaker.STATE_OPEN if failing else None
    assert decide(state, is_probe=False, fault=True) == opened
    assert decide(state, is_probe=False, fault=False) is None


def test_pybreaker_goes_by_the_probe_while_it_is_half_open() -> None:
    probed = BreakerState(openings=1, reopens_in_s=0.0)
    well = decide(probed, is_probe=True, fault=False)
    assert well == pybreaker.STATE_CLOSED
    assert decide(probed, is_probe=True, fault=True) == pybreaker.STATE_OPEN


@pytest.mark.parametrize("fault", [True, False])
def test_a_call_from_before_it_opened_decides_nothing(fault: bool) -> None:
    opened = BreakerState(openings=1, reopens_in_s=9.0)
    assert decide(opened, is_probe=False, fault=fault) is None


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_a_provider_that_is_back_is_probed_within_20_seconds(
    openings: int, chance: float
) -> None:
    assert 5 <= reset_s(openings, lambda: chance) <= 18


def test_the_back_off_grows_from_5_to_15_seconds_with_jitter() -> None:
    assert [reset_s(n, lambda: 0.0) for n in range(4)] == [5, 10, 15, 15]
    assert reset_s(0, lambda: 1.0) == 6


def test_half_of_the_calls_failing_opens_it_within_40_of_them() -> None:
    chance = random.Random(1)  # noqa: S311
    opened = [_opens_within(40, chance) for _ in range(400)]
    assert sum(opened) >= 370


def _opens_within(most: int, chance: random.Random) -> bool:
    faults = in_a_row = 0
    for calls in range(1, most + 1):
        fault = chance.random() < 0.5
        faults, in_a_row = faults + fault, in_a_row + 1 if fault else 0
        state = BreakerState(calls, faults, in_a_row)
        if decide(state, is_probe=False, fault=fault) == pybreaker.STATE_OPEN:
            return True
    return False


def test_only_the_providers_faults_count() -> None:
    assert set(FOLLOWS) >= FAULTS
    assert not FAULTS & {"provider_rate_limited", "provider_auth", "step_timeout"}


class TestWhileRedisIsAway:
    async def test_it_opens_after_5_calls_in_a_row_that_found_no_connection(
        self, away: Ephemeral, changes: Changes, clock: Clock
    ) -> None:
        mine = breakers(away, changes, clock=clock)
        await fail(mine, 4)
        await mine.report(P, M, None, ANSWERED)
        await fail(mine, 4)
        assert await mine.ask_here(P, M) == Pass()
        await fail(mine, 1)
        assert await mine.ask_here(P, M) == Shut(5)
        assert changes == [(f"{P}/{M}", 5)]
        assert await mine.ask_here(P, "another-model") == Pass()
        assert await mine.shut(P) == {M: 5}

    async def test_it_opens_at_two_fifths_of_20_calls_in_10_seconds(
        self, away: Ephemeral, changes: Changes, clock: Clock
    ) -> None:
        mine = breakers(away, changes, clock=clock)
        for _ in range(100):  # long ago
            await mine.report(P, M, None, ANSWERED)
        await eventually(lambda: not mine._answers)
        clock.pass_by(11)
        for _ in range(4):
            assert await mine.ask_here(P, M) == Pass()
            for how in (ANSWERED, FAULT, ANSWERED, ANSWERED, FAULT):
                await mine.report(P, M, None, how)
        assert isinstance(await mine.ask_here(P, M), Shut)

    async def test_one_probe_goes_when_its_time_has_come_and_closes_it(
        self, away: Ephemeral, changes: Changes, clock: Clock
    ) -> None:
        mine = breakers(away, changes, clock=clock)
        await fail(mine, 5)
        clock.pass_by(5.1)
        asked = [await mine.ask_here(P, M) for _ in range(10)]
        probes = [one.probe for one in asked if isinstance(one, Pass)]
        assert len(probes) == 1
        await mine.report(P, M, probes[0], ANSWERED)
        assert await mine.ask_here(P, M) == Pass()
        assert changes == [(f"{P}/{M}", 5), (f"{P}/{M}", None)]

    async def test_a_failed_probe_lengthens_the_back_off(
        self, away: Ephemeral, changes: Changes, clock: Clock
    ) -> None:
        mine = breakers(away, changes, clock=clock)
        await fail(mine, 5)
        for seconds in (5, 10, 15, 15):
            assert changes[-1] == (f"{P}/{M}", seconds)
            clock.pass_by(seconds + 0.5)
            probe = await mine.ask_here(P, M)
            assert isinstance(probe, Pass)
            await mine.report(P, M, probe.probe, FAULT)

    async def test_a_released_probe_is_anothers(
        self, away: Ephemeral, changes: Changes, clock: Clock
    ) -> None:
        mine = breakers(away, changes, clock=clock)
        await fail(mine, 5)
        clock.pass_by(16)
        first = await mine.ask_here(P, M)
        assert isinstance(first, Pass)
        assert first.probe
        await mine.release(P, M, first.probe)
        assert isinstance(await mine.ask_here(P, M), Pass)


@pytest.mark.integration
class TestWithRedis:
    async def test_failures_of_all_workers_open_it_for_all(
        self, ephemeral: Ephemeral, changes: Changes
    ) -> None:
        workers = [breakers(ephemeral, changes) for _ in range(5)]
        await asyncio.gather(*(fail(worker, 1) for worker in workers))
        assert changes == [(f"{P}/{M}", 5)]
        for worker in workers:
            assert 0 < (await worker.shut(P))[M] <= 5

    async def test_a_breaker_that_is_open_stays_open_when_redis_dies(
        self, redis_server: RedisServer, new_ephemeral: NewEphemeral, changes: Changes
    ) -> None:
        ephemeral = new_ephemeral(redis_server.url, answer_s=0.5, probe_every_s=0.05)
        mine = breakers(ephemeral, changes)
        await fail(mine, 5)
        redis_server.kill()
        await fail(mine, 1)
        assert not ephemeral.alive
        shut = await mine.ask_here(P, M)
        assert isinstance(shut, Shut)
        assert 1 < shut.retry_after_s <= 5
        redis_server.start()
        await eventually(lambda: ephemeral.alive)
