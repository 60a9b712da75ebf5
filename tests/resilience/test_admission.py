"""One verdict from pause, breaker and limits; nothing stays reserved by mistake."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmgine_workers import clock as wall_clock
from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.errors import FOLLOWS
from llmgine_workers.events.emit import Events
from llmgine_workers.events.facts import (
    Fact,
    GateClosed,
    GateOpened,
    LimitOvershot,
    LimitRefused,
    LimitsLocal,
    LimitsShared,
)
from llmgine_workers.llm import Quota
from llmgine_workers.resilience.admission import (
    CANCELLED,
    PAUSING,
    SUCCEEDED,
    Admission,
    Admitted,
    Refused,
    Wait,
)
from llmgine_workers.resilience.rules import Demand, units_of
from llmgine_workers.settings import LimitSettings
from tests.ephemeral.conftest import NewEphemeral, seconds_of, server_that_says
from tests.resilience.conftest import Clock

P, M = "openai", "gpt-5-mini"
FAULT = "provider_unreachable"
LEASE_S = 60.0


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

    def kinds(self) -> list[type[Fact]]:
        return [type(fact) for fact in self.facts]


@pytest.fixture
def seen() -> Seen:
    return Seen()


def admission(
    ephemeral: Ephemeral, seen: Seen, clock: Clock, rate: str = "1000/1m", **more: object
) -> Admission:
    limit = {"match": f"{P}/*", "requests": rate, **more}
    limits = [LimitSettings.model_validate(limit)]
    return Admission(ephemeral, limits, Events([seen]), clock=clock, rng=lambda: 0.0)


def call(tokens: int = 10, model: str = M) -> Demand:
    return Demand(f"{P}/{model}", "acme", tokens)


async def admitted(admission: Admission, tokens: int = 10, model: str = M) -> Admitted:
    verdict = await admission.ask(call(tokens, model), LEASE_S)
    assert isinstance(verdict, Admitted), verdict
    return verdict


async def waits(admission: Admission, reason: str) -> Wait:
    verdict = await admission.ask(call(), LEASE_S)
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
        assert seen.kinds() == [LimitsLocal, LimitRefused]

    async def test_faults_open_the_breaker_and_a_probe_closes_it(
        self, away: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(away, seen, clock)
        for _ in range(5):
            await gate.settle(await admitted(gate), FAULT)
        assert (await waits(gate, "breaker")).retry_after_s == 5
        assert not (await gate.rooms(P, ["acme"])).take(call())
        await admitted(gate, model="another")
        clock.pass_by(6)
        assert (await gate.rooms(P, ["acme"])).take(call())
        probe = await admitted(gate)
        assert probe.probe
        await waits(gate, "breaker")
        await gate.settle(probe, SUCCEEDED)
        assert (await admitted(gate)).probe is None
        assert seen.kinds() == [LimitsLocal, GateClosed, GateOpened]

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
        assert seen.kinds() == [LimitsLocal, GateClosed, GateClosed]

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
            verdict = await gate.ask(call(), LEASE_S)
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
            assert await seconds_of(gate.ask(call(), LEASE_S)) < 0.5
            verdicts = asyncio.gather(*(gate.ask(call(), LEASE_S) for _ in range(100)))
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

    @pytest.mark.parametrize("outcome", sorted(PAUSING))
    async def test_every_refusal_with_a_time_closes_the_gate_for_everyone(
        self, outcome: str, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        mine, other = (admission(ephemeral, seen, clock) for _ in range(2))
        await mine.settle(await admitted(mine), outcome, retry_after_s=7)
        assert 6 < (await waits(other, "provider_pause")).retry_after_s <= 7
        assert seen.kinds() == [GateClosed]

    async def test_an_open_breaker_is_everyones_and_one_of_all_probes(
        self, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        workers = [admission(ephemeral, seen, clock) for _ in range(4)]
        for worker in (*workers, workers[0]):
            await worker.settle(await admitted(worker), FAULT)
        for worker in workers:
            assert (await waits(worker, "breaker")).retry_after_s <= 5
            await admitted(worker, model="another")
        key = ephemeral.key("breaker", f"{P}/{M}")
        await ephemeral.command("HSET", key, "until", 1)
        asks = (worker.ask(call(), LEASE_S) for worker in workers * 5)
        verdicts = await asyncio.gather(*asks)
        (probe,) = [one for one in verdicts if isinstance(one, Admitted)]
        assert probe.probe
        await workers[0].settle(probe, SUCCEEDED)
        assert (await admitted(workers[1])).probe is None
        assert seen.kinds() == [GateClosed, GateOpened]

    async def test_no_probe_is_taken_by_a_call_that_a_limit_sends_away(
        self, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(ephemeral, seen, clock, "5/1m")
        for _ in range(5):
            await gate.settle(await admitted(gate), FAULT)
        key = ephemeral.key("breaker", f"{P}/{M}")
        await ephemeral.command("HSET", key, "until", 1)
        await waits(gate, "limit")
        assert await ephemeral.command("EXISTS", f"{key}:probe") == 0

    async def test_a_refund_leaves_nothing_reserved(
        self, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(ephemeral, seen, clock, "1/1m", tokens="100/1m", in_flight=1)
        taken = await admitted(gate)
        await waits(gate, "limit")
        assert await gate.room(P, 50) == 0
        assert not (await gate.rooms(P, ["acme"])).take(call())
        await gate.refund(taken)
        assert await gate.room(P, 50) == 1
        assert (await gate.rooms(P, ["acme"])).take(call())
        await admitted(gate)

    async def test_a_call_is_settled_by_its_account_or_by_its_bound(
        self, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(ephemeral, seen, clock, tokens="1000/1m")
        await gate.settle(await admitted(gate, 500), SUCCEEDED, used=units_of(80, 20))
        await gate.settle(await admitted(gate, 500), CANCELLED)
        assert (await gate.rooms(P, [])).take(call(400))
        assert not (await gate.rooms(P, [])).take(call(401))

    async def test_room_is_told_in_calls_of_a_usual_size(
        self, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(ephemeral, seen, clock, "100/1m", tokens="1000/1m")
        assert await gate.room(P, 500) == 100  # nobody has seen a call yet
        for _ in range(4):
            await admitted(gate, 100)
        assert await gate.room(P, 50) == 6

    async def test_a_call_that_never_fits_is_refused(
        self, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(ephemeral, seen, clock, tokens="1000/1m")
        verdict = await gate.ask(call(1001), LEASE_S)
        assert isinstance(verdict, Refused)
        assert verdict.code == "exceeds_limit"
        assert verdict.code in FOLLOWS
        for number in ("1001", "1000 tokens/1m"):
            assert number in verdict.detail

    async def test_an_overshoot_of_a_learned_estimate_is_told(
        self, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(ephemeral, seen, clock, tokens="1000/1m", estimate="learned")
        for _ in range(20):
            taken = await admitted(gate, 100)
            await gate.settle(taken, SUCCEEDED, used=units_of(10, 0))
        for one in [await admitted(gate, 1000) for _ in range(3)]:
            await gate.settle(one, SUCCEEDED, used=units_of(1000, 0))
        assert set(seen.kinds()) == {LimitOvershot}

    async def test_a_provider_that_has_less_left_is_believed(
        self, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        mine, other = (admission(ephemeral, seen, clock, "100/1m") for _ in range(2))
        taken = await admitted(mine)
        await mine.settle(taken, SUCCEEDED, quota=Quota(requests=3, tokens=1))
        assert await other.room(P, 50) == 3

    async def test_redis_away_and_back_is_told_once(
        self, ephemeral: Ephemeral, seen: Seen, clock: Clock
    ) -> None:
        gate = admission(ephemeral, seen, clock)
        ephemeral._down = "gone"
        for _ in range(3):
            await admitted(gate)
        ephemeral._down = None
        for _ in range(3):
            await admitted(gate)
        assert seen.kinds() == [LimitsLocal, LimitsShared]
