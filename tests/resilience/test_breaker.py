"""The breaker opens for the provider's faults only, and one probe tells when to close."""

from __future__ import annotations

import asyncio

import pybreaker
import pytest

from llmgine_workers.ephemeral.breaker_store import BreakerState, BreakerStore
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
from tests.ephemeral.conftest import NewEphemeral, eventually, eventually_true
from tests.resilience.conftest import Clock
from tests.servers import RedisServer

P = "openai"
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


async def fail(breakers: Breakers, times: int, provider: str = P) -> None:
    for _ in range(times):
        await breakers.report(provider, None, fault=True)


def test_pybreaker_decides_on_what_the_store_has_counted() -> None:
    assert decide(BreakerState(failures=4), is_probe=False, fault=True) is None
    fifth = decide(BreakerState(failures=5), is_probe=False, fault=True)
    assert fifth == pybreaker.STATE_OPEN
    assert decide(BreakerState(failures=4), is_probe=False, fault=False) is None
    probed = BreakerState(openings=1, reopens_in_s=0.0)
    well = decide(probed, is_probe=True, fault=False)
    assert well == pybreaker.STATE_CLOSED
    assert decide(probed, is_probe=True, fault=True) == pybreaker.STATE_OPEN


@pytest.mark.parametrize("fault", [True, False])
def test_a_call_from_before_it_opened_decides_nothing(fault: bool) -> None:
    opened = BreakerState(openings=1, reopens_in_s=9.0)
    assert decide(opened, is_probe=False, fault=fault) is None


def test_the_back_off_doubles_from_15_to_120_seconds_with_jitter() -> None:
    assert [reset_s(n, lambda: 0.0) for n in range(5)] == [15, 30, 60, 120, 120]
    assert reset_s(0, lambda: 1.0) == 18
    assert reset_s(10**6, lambda: 0.0) == 120


def test_only_the_providers_faults_count() -> None:
    assert set(FOLLOWS) >= FAULTS
    assert not FAULTS & {"provider_rate_limited", "provider_auth", "step_timeout"}


class TestWhileRedisIsAway:
    async def test_it_opens_after_5_failures_in_a_row(
        self, away: Ephemeral, changes: Changes, clock: Clock
    ) -> None:
        mine = breakers(away, changes, clock=clock)
        await fail(mine, 4)
        await mine.report(P, None, fault=False)
        await fail(mine, 4)
        assert await mine.ask(P) == Pass()
        await fail(mine, 1)
        assert await mine.ask(P) == Shut(15)
        assert changes == [(P, 15)]
        assert await mine.ask("anthropic") == Pass()

    async def test_one_probe_goes_when_its_time_has_come_and_closes_it(
        self, away: Ephemeral, changes: Changes, clock: Clock
    ) -> None:
        mine = breakers(away, changes, clock=clock)
        await fail(mine, 5)
        clock.pass_by(15.1)
        asked = [await mine.ask(P) for _ in range(10)]
        probes = [one.probe for one in asked if isinstance(one, Pass)]
        assert len(probes) == 1
        await mine.report(P, probes[0], fault=False)
        assert await mine.ask(P) == Pass()
        assert changes == [(P, 15), (P, None)]

    async def test_a_failed_probe_doubles_the_back_off(
        self, away: Ephemeral, changes: Changes, clock: Clock
    ) -> None:
        mine = breakers(away, changes, clock=clock)
        await fail(mine, 5)
        for seconds in (15, 30, 60, 120, 120):
            assert changes[-1] == (P, seconds)
            clock.pass_by(seconds + 0.5)
            probe = await mine.ask(P)
            assert isinstance(probe, Pass)
            await mine.report(P, probe.probe, fault=True)

    async def test_a_released_probe_is_anothers(
        self, away: Ephemeral, changes: Changes, clock: Clock
    ) -> None:
        mine = breakers(away, changes, clock=clock)
        await fail(mine, 5)
        clock.pass_by(16)
        first = await mine.ask(P)
        assert isinstance(first, Pass)
        assert first.probe
        await mine.release(P, first.probe)
        assert isinstance(await mine.ask(P), Pass)


@pytest.mark.integration
class TestWithRedis:
    async def test_failures_of_all_workers_open_it_for_all(
        self, ephemeral: Ephemeral, changes: Changes, clock: Clock
    ) -> None:
        workers = [breakers(ephemeral, changes, clock=clock) for _ in range(5)]
        for worker in workers:
            assert await worker.ask(P) == Pass()
        await asyncio.gather(*(fail(worker, 1) for worker in workers))
        assert changes == [(P, 15)]
        clock.pass_by(0.3)  # what they saw before is stale now
        for worker in workers:
            assert isinstance(await worker.ask(P), Shut)

    async def test_one_probe_among_50_askers_of_5_workers(
        self, ephemeral: Ephemeral, changes: Changes
    ) -> None:
        store = BreakerStore(ephemeral)
        workers = [breakers(ephemeral, changes) for _ in range(5)]
        await store.open(P, None, 0.001)

        async def due() -> bool:
            left = (await store.look(P)).reopens_in_s
            return left is not None and left <= 0

        await eventually_true(due)
        asked = await asyncio.gather(*(workers[n % 5].ask(P) for n in range(50)))
        assert sum(isinstance(one, Pass) for one in asked) == 1
        for one in asked:
            if isinstance(one, Pass):
                assert one.probe
                await workers[0].report(P, one.probe, fault=False)
        assert not (await store.look(P)).is_open
        assert changes == [(P, None)]

    async def test_a_healthy_provider_costs_no_call_per_success(
        self, ephemeral: Ephemeral, changes: Changes, clock: Clock
    ) -> None:
        mine = breakers(ephemeral, changes, clock=clock)
        await mine.ask(P)
        await ephemeral.close()
        ephemeral._short.connection_pool.connection_kwargs["port"] = 1
        for _ in range(10):
            assert await mine.ask(P) == Pass()
            await mine.report(P, None, fault=False)
        assert ephemeral.alive  # it was not asked

    async def test_a_breaker_that_is_open_stays_open_when_redis_dies(
        self, redis_server: RedisServer, new_ephemeral: NewEphemeral, changes: Changes
    ) -> None:
        ephemeral = new_ephemeral(redis_server.url, answer_s=0.5, probe_every_s=0.05)
        mine = breakers(ephemeral, changes)
        await fail(mine, 5)
        redis_server.kill()
        await fail(mine, 1)
        assert not ephemeral.alive
        shut = await mine.ask(P)
        assert isinstance(shut, Shut)
        assert 10 < shut.retry_after_s <= 15
        redis_server.start()
        await eventually(lambda: ephemeral.alive)
