"""One limit over all workers; a careful share of it while Redis is away."""

from __future__ import annotations

import asyncio

import pytest

from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.ephemeral.windows import Windows
from llmgine_workers.resilience.limits import Limiter, NoRoom, Reserved, rules_of
from llmgine_workers.settings import LimitSettings
from tests.ephemeral.conftest import NewEphemeral, eventually
from tests.resilience.conftest import Clock
from tests.servers import RedisServer

P = "openai"


def limits(*rates: str) -> dict[str, tuple[object, ...]]:
    return rules_of(  # type: ignore[return-value]
        LimitSettings.model_validate({"match": "openai/*", "requests": rate})
        for rate in rates
    )


def limiter(ephemeral: Ephemeral, *rates: str, **options: object) -> Limiter:
    return Limiter(Windows(ephemeral), limits(*rates), **options)  # type: ignore[arg-type]


async def admitted(limiter: Limiter, at_most: int = 1000) -> int:
    for count in range(at_most):
        if isinstance(await limiter.reserve(P), NoRoom):
            return count
    return at_most


def test_rules_are_named_as_people_wrote_them_and_counted_apart() -> None:
    rules = rules_of(
        LimitSettings.model_validate({"match": f"{p}/*", "requests": rate})
        for p, rate in (("openai", "600/1m"), ("openai", "20/1500ms"), ("other", "5/1h"))
    )
    names = [rule.name for some in rules.values() for rule in some]
    assert names == [
        "openai/* 600 requests/1m",
        "openai/* 20 requests/1500ms",
        "other/* 5 requests/1h",
    ]
    assert len({rule.bucket for some in rules.values() for rule in some}) == 3


async def test_a_provider_without_limits_never_waits(away: Ephemeral) -> None:
    free = limiter(away, "1/1m")
    for _ in range(10):
        reserved = await free.reserve("ollama")
        assert isinstance(reserved, Reserved)
        await free.refund(reserved)
    assert await free.room("ollama", 7) == 7


class TestWhileRedisIsAway:
    async def test_a_worker_has_its_share_of_seven_tenths(
        self, away: Ephemeral, clock: Clock
    ) -> None:
        mine = limiter(away, "600/1m", clock=clock)
        mine.live_workers = 4
        assert await admitted(mine) == 105
        refused = await mine.reserve(P)
        assert isinstance(refused, NoRoom)
        assert "while Redis is away" in refused.detail
        assert "105" in refused.detail
        assert refused.retry_after_s is not None
        clock.pass_by(refused.retry_after_s + 0.001)
        assert await admitted(mine) == 105

    async def test_workers_that_come_and_go_change_the_share(
        self, away: Ephemeral, clock: Clock
    ) -> None:
        mine = limiter(away, "100/1m", clock=clock)
        mine.live_workers = 2
        assert await admitted(mine) == 35
        mine.live_workers = 1
        assert await admitted(mine) == 35
        mine.live_workers = 7
        assert await admitted(mine) == 0

    async def test_a_share_below_one_call_is_a_longer_window_not_none(
        self, away: Ephemeral, clock: Clock
    ) -> None:
        mine = limiter(away, "2/1m", clock=clock)
        mine.live_workers = 10
        assert await admitted(mine) == 1
        clock.pass_by(400)
        assert await admitted(mine) == 0
        clock.pass_by(60)
        assert await admitted(mine) == 1

    async def test_a_refund_is_room_again(self, away: Ephemeral, clock: Clock) -> None:
        mine = limiter(away, "10/1m", clock=clock)
        reserved = await mine.reserve(P)
        assert isinstance(reserved, Reserved)
        await mine.refund(reserved)
        assert await admitted(mine) == 7


@pytest.mark.integration
class TestWithRedis:
    async def test_workers_share_the_limit(
        self, redis_url: str, new_ephemeral: NewEphemeral, ephemeral: Ephemeral
    ) -> None:
        workers = [
            limiter(new_ephemeral(redis_url, ephemeral.key(), answer_s=5.0), "30/1m")
            for _ in range(4)
        ]
        counts = await asyncio.gather(*(admitted(worker) for worker in workers))
        assert sum(counts) == 30
        assert await workers[0].room(P, 100) == 0

    async def test_the_tightest_of_several_rules_decides_and_is_named(
        self, ephemeral: Ephemeral
    ) -> None:
        both = limiter(ephemeral, "100/1h", "5/1m")
        assert await admitted(both) == 5
        refused = await both.reserve(P)
        assert isinstance(refused, NoRoom)
        assert refused.detail == "openai/* 5 requests/1m is used up"

    async def test_a_refunded_call_is_room_for_everyone(
        self, ephemeral: Ephemeral
    ) -> None:
        mine, other = limiter(ephemeral, "1/1m"), limiter(ephemeral, "1/1m")
        reserved = await mine.reserve(P)
        assert isinstance(reserved, Reserved)
        assert await admitted(other) == 0
        await mine.refund(reserved)
        assert await admitted(other) == 1

    async def test_a_dead_redis_gives_no_fresh_share_and_what_was_used_is_added_back(
        self, redis_server: RedisServer, new_ephemeral: NewEphemeral
    ) -> None:
        ephemeral = new_ephemeral(redis_server.url, answer_s=0.5, probe_every_s=0.05)
        mine = limiter(ephemeral, "100/1m")
        for _ in range(50):
            assert isinstance(await mine.reserve(P), Reserved)
        redis_server.pause()
        assert await admitted(mine) == 20  # its share is 70, and it has had 50
        redis_server.resume()
        await eventually(lambda: ephemeral.alive)
        other = limiter(ephemeral, "100/1m")
        assert isinstance(await mine.reserve(P), Reserved)
        # The call that hung may have been counted when it was thawed.
        assert await other.room(P, 100) in (28, 29)  # of 100, without 50 + 20 + 1

    async def test_an_emptied_redis_costs_one_burst_at_most(
        self, redis_server: RedisServer, new_ephemeral: NewEphemeral
    ) -> None:
        ephemeral = new_ephemeral(redis_server.url, answer_s=0.5, probe_every_s=0.05)
        mine = limiter(ephemeral, "100/1m")
        before = await admitted(mine)
        redis_server.flush()
        assert before + await admitted(mine) <= 200
