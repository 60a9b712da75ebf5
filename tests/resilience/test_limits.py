"""One limit over all workers; a careful share of it while Redis is away."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest

from llmgine_workers.ephemeral.connection import Ephemeral, EphemeralDown
from llmgine_workers.ephemeral.gate import Asked, Closed, Gate
from llmgine_workers.ephemeral.windows import Windows
from llmgine_workers.resilience.limits import Limiter, Reserved
from llmgine_workers.resilience.local_share import NoRoom
from llmgine_workers.resilience.rules import Demand, Rules, units_of
from llmgine_workers.settings import LimitSettings
from tests.ephemeral.conftest import NewEphemeral, eventually
from tests.resilience.conftest import Clock
from tests.servers import RedisServer

MODEL = "openai/gpt-5-mini"


class Mine:
    """The limiter of one worker, asked for calls of one size."""

    def __init__(self, ephemeral: Ephemeral, *limits: object, **options: object) -> None:
        settings = [LimitSettings.model_validate({"match": "openai/*", **_of(one)})
                    for one in limits]  # fmt: skip
        self.rules = Rules(settings)
        clock = options.get("clock", time.monotonic)
        assert callable(clock)
        self.limiter = Limiter(Gate(ephemeral), Windows(ephemeral), clock=clock)

    async def reserve(self, tokens: int = 0) -> Reserved | NoRoom:
        asked = self._asked(tokens)
        try:
            found = await self.limiter.reserve(asked, probe_lease_s=30)
        except EphemeralDown:
            return self.limiter.reserve_here(asked)
        assert not isinstance(found, Closed)
        return found

    async def reserved(self, tokens: int = 0) -> Reserved:
        found = await self.reserve(tokens)
        assert isinstance(found, Reserved), found
        return found

    async def refused(self, tokens: int = 0) -> NoRoom:
        found = await self.reserve(tokens)
        assert isinstance(found, NoRoom), found
        return found

    async def admitted(self, tokens: int = 0) -> int:
        for count in range(1000):
            if isinstance(await self.reserve(tokens), NoRoom):
                return count
        return 1000

    async def left(self) -> list[int]:
        found = await self.limiter.left(self.rules.of(MODEL, "acme"))
        return [left.units for left in found.values()]

    def _asked(self, tokens: int) -> Asked:
        charges = self.rules.charges(Demand(MODEL, "acme", tokens))
        call = uuid4().hex
        return Asked("openai", "gpt-5-mini", call, call, call, 60.0, charges)


def _of(limit: object) -> dict[str, object]:
    return limit if isinstance(limit, dict) else {"requests": limit}


async def test_without_limits_nobody_waits(away: Ephemeral) -> None:
    free = Mine(away)
    for _ in range(10):
        await free.limiter.refund(await free.reserved(10**9))


class TestWhileRedisIsAway:
    async def test_a_worker_has_its_share_of_seven_tenths(
        self, away: Ephemeral, clock: Clock
    ) -> None:
        mine = Mine(away, "600/1m", clock=clock)
        mine.limiter.live_workers = 4
        assert await mine.admitted() == 105
        refused = await mine.refused()
        assert "while Redis is away" in refused.detail
        assert "105" in refused.detail
        assert refused.retry_after_s is not None
        clock.pass_by(refused.retry_after_s + 0.001)
        assert await mine.admitted() == 105

    async def test_workers_that_come_and_go_change_the_share(
        self, away: Ephemeral, clock: Clock
    ) -> None:
        mine = Mine(away, "100/1m", clock=clock)
        mine.limiter.live_workers = 2
        assert await mine.admitted() == 35
        mine.limiter.live_workers = 1
        assert await mine.admitted() == 35
        mine.limiter.live_workers = 7
        assert await mine.admitted() == 0

    async def test_a_share_below_one_call_is_a_longer_window_not_none(
        self, away: Ephemeral, clock: Clock
    ) -> None:
        mine = Mine(away, "2/1m", clock=clock)
        mine.limiter.live_workers = 10
        assert await mine.admitted() == 1
        clock.pass_by(400)
        assert await mine.admitted() == 0
        clock.pass_by(60)
        assert await mine.admitted() == 1

    async def test_tokens_are_shared_as_requests_are_and_settled(
        self, away: Ephemeral, clock: Clock
    ) -> None:
        mine = Mine(away, {"tokens": "10000/1m"}, clock=clock)
        first = await mine.reserved(6900)
        assert "7000" in (await mine.refused(200)).detail
        await mine.limiter.settle(first, units_of(900, 0))
        await mine.reserved(6000)

    async def test_a_call_beyond_the_share_waits_for_redis_and_does_not_fail(
        self, away: Ephemeral, clock: Clock
    ) -> None:
        mine = Mine(away, {"tokens": "10000/1m"}, clock=clock)
        refused = await mine.refused(9000)
        assert "more than this worker's share" in refused.detail
        assert refused.retry_after_s == 5
        never = await mine.refused(10_001)
        assert never.retry_after_s is None

    async def test_calls_in_flight_have_a_share_too(
        self, away: Ephemeral, clock: Clock
    ) -> None:
        mine = Mine(away, {"in_flight": 10}, clock=clock)
        first, *_ = [await mine.reserved() for _ in range(7)]
        await mine.refused()
        await mine.limiter.settle(first, None)
        await mine.reserved()
        await mine.refused()
        clock.pass_by(61)  # all of them are overdue
        assert await mine.admitted() == 7

    async def test_a_refund_is_room_again(self, away: Ephemeral, clock: Clock) -> None:
        mine = Mine(away, "10/1m", clock=clock)
        await mine.limiter.refund(await mine.reserved())
        assert await mine.admitted() == 7


@pytest.mark.integration
class TestWithRedis:
    async def test_workers_share_the_limit(
        self, redis_url: str, new_ephemeral: NewEphemeral, ephemeral: Ephemeral
    ) -> None:
        workers = [
            Mine(new_ephemeral(redis_url, ephemeral.key(), answer_s=5.0), "30/1m")
            for _ in range(4)
        ]
        counts = await asyncio.gather(*(worker.admitted() for worker in workers))
        assert sum(counts) == 30
        assert await workers[0].left() == [0]

    async def test_the_tightest_of_several_rules_decides_and_is_named(
        self, ephemeral: Ephemeral
    ) -> None:
        both = Mine(ephemeral, "100/1h", "5/1m", {"in_flight": 50})
        assert await both.admitted() == 5
        assert (await both.refused()).detail == "openai/* 5 requests/1m is used up"

    async def test_a_call_of_any_size_fits_only_where_it_may_ever_fit(
        self, ephemeral: Ephemeral
    ) -> None:
        mine = Mine(ephemeral, {"tokens": "1000/1m"})
        refused = await mine.refused(1001)
        assert refused.retry_after_s is None
        assert refused.detail == (
            "needs 1001 of openai/* 1000 tokens/1m, which never has so much"
        )
        await mine.reserved(1000)

    async def test_what_a_call_did_not_use_is_room_for_everyone(
        self, ephemeral: Ephemeral
    ) -> None:
        limits = ({"tokens": "1000/1m"}, {"in_flight": 1}, "5/1m")
        mine, other = Mine(ephemeral, *limits), Mine(ephemeral, *limits)
        call = await mine.reserved(980)
        assert await other.admitted(40) == 0  # so small a call claims nothing
        await mine.limiter.settle(call, units_of(100, 50))
        assert await mine.left() == [850, 1, 4]
        await other.limiter.refund(await other.reserved(800))
        assert await mine.left() == [850, 1, 4]

    async def test_a_call_that_comes_late_is_counted_when_it_begins(
        self, ephemeral: Ephemeral, clock: Clock
    ) -> None:
        mine = Mine(ephemeral, "100/1m", clock=clock)
        call = await mine.reserved()
        clock.pass_by(0.2)
        assert await mine.limiter.begin(call) is call, "the slack covers it"
        clock.pass_by(0.2)
        await asyncio.sleep(0.002)  # the server's clock is another
        begun = await mine.limiter.begin(call)
        assert begun.shared is not None
        assert call.shared is not None
        assert begun.shared.at_ms > call.shared.at_ms
        await mine.limiter.refund(begun)
        assert await mine.left() == [100]

    async def test_a_dead_redis_gives_no_fresh_share_and_what_was_used_is_added_back(
        self, redis_server: RedisServer, new_ephemeral: NewEphemeral
    ) -> None:
        ephemeral = new_ephemeral(redis_server.url, answer_s=0.5, probe_every_s=0.05)
        mine = Mine(ephemeral, "100/1m")
        for _ in range(50):
            await mine.reserved()
        redis_server.pause()
        assert await mine.admitted() == 20  # its share is 70, and it has had 50
        redis_server.resume()
        await eventually(lambda: ephemeral.alive)
        other = Mine(ephemeral, "100/1m")
        await mine.reserved()
        # The call that hung may have been counted when it was thawed.
        assert (await other.left())[0] in (28, 29)  # of 100, without 50 + 20 + 1

    async def test_slots_taken_while_it_was_away_are_free_when_their_calls_end(
        self, redis_server: RedisServer, new_ephemeral: NewEphemeral
    ) -> None:
        ephemeral = new_ephemeral(redis_server.url, answer_s=0.5, probe_every_s=0.05)
        mine = Mine(ephemeral, {"in_flight": 2})
        redis_server.kill()
        call = await mine.reserved()
        redis_server.start()
        await eventually(lambda: ephemeral.alive)
        await mine.reserved()
        assert await mine.left() == [0]
        await mine.limiter.settle(call, None)
        assert await mine.left() == [1]

    async def test_an_emptied_redis_is_told_what_was_used(
        self, redis_server: RedisServer, new_ephemeral: NewEphemeral
    ) -> None:
        ephemeral = new_ephemeral(redis_server.url, answer_s=0.5, probe_every_s=0.05)
        workers = [Mine(ephemeral, "100/1m", {"in_flight": 90}) for _ in range(2)]
        for _ in range(30):
            for worker in workers:
                await worker.reserved()
        redis_server.flush()
        for worker in workers:  # many calls at once tell it once
            await asyncio.gather(*(worker.reserved() for _ in range(5)))
        assert await workers[0].left() == [30, 20]

    async def test_one_that_restarts_empty_is_told_too(
        self, redis_server: RedisServer, new_ephemeral: NewEphemeral
    ) -> None:
        ephemeral = new_ephemeral(redis_server.url, answer_s=0.5, probe_every_s=0.05)
        mine = Mine(ephemeral, "100/1m")
        for _ in range(60):
            await mine.reserved()
        redis_server.kill()
        assert await mine.admitted() == 10
        redis_server.start()
        await eventually(lambda: ephemeral.alive)
        await mine.reserved()
        assert (await mine.left())[0] <= 29
