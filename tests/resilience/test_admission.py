"""One verdict from pause, breaker and limits; nothing stays reserved by mistake."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmgine_workers import clock as wall_clock
from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.events.emit import Events
from llmgine_workers.events.facts import Fact, GateClosed, GateOpened, LimitRefused
from llmgine_workers.resilience.admission import (
    CANCELLED,
    SUCCEEDED,
    Admission,
    Admitted,
    Wait,
)
from llmgine_workers.settings import LimitSettings
from tests.ephemeral.conftest import NewEphemeral, seconds_of, server_that_says
from tests.resilience.conftest import Clock

P, M = "openai", "gpt-5-mini"
FAULT = "provider_unavailable"


class Seen:
    """A handler that keeps what it is told."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def wants(self, kind: type[Fact]) -> bool:
        return True

    async def handle(self, facts: Sequence[Fact]) -> None:
        self.facts += facts

    async def close(self) -> None:
        pass


@pytest.fixture
def seen() -> Seen:
    return Seen()


def admission(
    ephemeral: Ephemeral, seen: Seen, clock: Clock, rate: str = "1000/1m"
) -> Admission:
    limit = LimitSettings.model_validate({"match": f"{P}/*", "requests": rate})
    events = Events([seen])
    return Admission(ephemeral, [limit], events, clock=clock, rng=lambda: 0.0)


async def admitted(admission: Admission) -> Admitted:
    verdict = await admission.ask(P, M)
    assert isinstance(verdict, Admitted), verdict
    return verdict


async def waits(admission: Admission, reason: str) -> Wait:
    verdict = await admission.ask(P, M)
    assert isinstance(verdict, Wait), verdict
    assert verdict.reason == reason
    seconds = (verdict.until - wall_clock.now()).total_seconds()
    assert seconds == pytest.approx(verdict.retry_after_s, abs=0.5)
    return verdict


class TestWhileRedisIsAway:
    async def test_a_used_up_limit_is_waited_for_and_told(
        self, away: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(away, seen, clock, "10/1m")
        for _ in range(7):
            await gate.settle(await admitted(gate), SUCCEEDED)
        wait = await waits(gate, "limit")
        assert "openai/* 10 requests/1m" in wait.detail
        assert 59 < wait.retry_after_s < 63
        assert [type(fact) for fact in seen.facts] == [LimitRefused]

    async def test_faults_open_the_breaker_and_a_probe_closes_it(
        self, away: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(away, seen, clock)
        for _ in range(5):
            await gate.settle(await admitted(gate), FAULT)
        assert (await waits(gate, "breaker")).retry_after_s == 15
        assert await gate.room(P, 50) == 0
        clock.pass_by(16)
        assert await gate.room(P, 50) == 1
        probe = await admitted(gate)
        assert probe.probe
        await waits(gate, "breaker")
        await gate.settle(probe, SUCCEEDED)
        assert (await admitted(gate)).probe is None
        assert [type(fact) for fact in seen.facts] == [GateClosed, GateOpened]

    @pytest.mark.parametrize(
        "outcome", [CANCELLED, "provider_rejected", "provider_auth", "output_invalid"]
    )
    async def test_what_is_not_the_providers_fault_never_opens_it(
        self, outcome: str, away: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(away, seen, clock)
        for _ in range(20):
            await gate.settle(await admitted(gate), outcome)
        await admitted(gate)

    async def test_a_429_closes_the_gate_for_as_long_as_it_says_up_to_15_minutes(
        self, away: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(away, seen, clock)
        call = await admitted(gate)
        await gate.settle(call, "provider_rate_limited", retry_after_s=30)
        assert (await waits(gate, "provider_pause")).retry_after_s == pytest.approx(30)
        assert await gate.room(P, 50) == 0
        clock.pass_by(31)
        call = await admitted(gate)
        await gate.settle(call, "provider_rate_limited", retry_after_s=86400)
        assert (await waits(gate, "provider_pause")).retry_after_s == pytest.approx(900)
        assert [type(fact) for fact in seen.facts] == [GateClosed, GateClosed]

    @pytest.mark.parametrize("give_back", ["refund", "cancel"])
    async def test_a_probe_that_is_given_back_is_anothers(
        self, give_back: str, away: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(away, seen, clock)
        for _ in range(5):
            await gate.settle(await admitted(gate), FAULT)
        clock.pass_by(16)
        probe = await admitted(gate)
        if give_back == "refund":
            await gate.refund(probe)
        else:
            await gate.settle(probe, CANCELLED)
        assert (await admitted(gate)).probe

    async def test_a_probe_that_finds_no_room_is_given_back(
        self, away: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(away, seen, clock, "8/1h")
        for _ in range(5):  # all of this worker's share
            await gate.settle(await admitted(gate), FAULT)
        clock.pass_by(16)
        for _ in range(2):  # the second would wait for the first one's probe
            await waits(gate, "limit")

    async def test_those_sent_away_together_do_not_come_back_together(
        self, away: Ephemeral, clock: Clock
    ) -> None:
        gate = Admission(away, [], Events(), clock=clock)
        await gate.pause(P, 20)
        waits_s = set()
        for _ in range(20):
            verdict = await gate.ask(P, M)
            assert isinstance(verdict, Wait)
            waits_s.add(verdict.retry_after_s)
        assert len(waits_s) == 20
        assert all(20 <= seconds <= 25 for seconds in waits_s)

    async def test_a_silent_redis_delays_one_verdict_and_no_other(
        self, new_ephemeral: NewEphemeral, seen: Seen, clock: Clock
    ) -> None:
        async with server_that_says(b"") as url:
            ephemeral = new_ephemeral(url)
            gate = admission(ephemeral, seen, clock)
            assert await seconds_of(gate.ask(P, M)) < 0.5
            verdicts = asyncio.gather(*(gate.ask(P, M) for _ in range(100)))
            assert await seconds_of(verdicts) < 0.1
            await ephemeral.close()


@pytest.mark.integration
class TestWithRedis:
    async def test_a_pause_holds_for_every_worker(
        self, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        mine, other = (admission(ephemeral, seen, clock) for _ in range(2))
        await mine.pause(P, 60)
        wait = await waits(other, "provider_pause")
        assert 59 < wait.retry_after_s <= 60

    async def test_a_refund_leaves_nothing_reserved(
        self, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(ephemeral, seen, clock, "1/1m")
        call = await admitted(gate)
        await waits(gate, "limit")
        assert await gate.room(P, 50) == 0
        await gate.refund(call)
        assert await gate.room(P, 50) == 1
        await admitted(gate)
