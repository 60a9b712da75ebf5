"""No interval of a window's length sees more than the limit, whoever reserves."""

from __future__ import annotations

import asyncio
import json
import sys
from bisect import bisect_left
from pathlib import Path

import pytest

from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.ephemeral.windows import (
    Charge,
    Refused,
    Reservation,
    Rule,
    Usage,
    Windows,
)
from tests.ephemeral.competitor import compete

COMPETITOR = str(Path(__file__).with_name("competitor.py"))


def rule(limit: int, window_s: float = 60, bucket: str = "b") -> Rule:
    return Rule(f"{limit}/{window_s}s", bucket, limit, window_s)


def worst_interval(taken: list[tuple[int, int]], window_ms: float) -> int:
    """The most units that any interval of that length saw, of (ms, units)."""
    taken = sorted(taken)
    moments = [moment for moment, _ in taken]
    sums = [0]
    for _, units in taken:
        sums.append(sums[-1] + units)
    return max(
        sums[bisect_left(moments, moment + window_ms)] - sums[first]
        for first, moment in enumerate(moments)
    )


@pytest.mark.parametrize("window_s", [0.2, 1, 1.5, 10, 60, 90, 3600])
def test_the_counters_cover_the_window_and_its_slack_and_little_more(
    window_s: float,
) -> None:
    counted_s = rule(1, window_s).slots * rule(1, window_s).slot_ms / 1000
    slack_s = min(1.0, 0.02 * window_s)
    slot_s = rule(1, window_s).slot_ms / 1000
    # Aligned counters that span one more than the length cover any interval of it.
    assert counted_s - slot_s >= window_s + slack_s
    assert rule(1, window_s).slots <= 126  # a listpack's 128 entries
    if window_s >= 1:
        assert counted_s <= 1.05 * window_s  # so at least 95 % can be used


@pytest.mark.integration
class TestWithRedis:
    @pytest.fixture
    def windows(self, ephemeral: Ephemeral) -> Windows:
        return Windows(ephemeral)

    async def test_it_admits_up_to_the_limit_and_says_when_there_is_room(
        self, windows: Windows
    ) -> None:
        charges = [Charge(rule(3))]
        for _ in range(3):
            assert isinstance(await windows.reserve(charges), Reservation)
        refused = await windows.reserve(charges)
        assert isinstance(refused, Refused)
        assert refused.retry_after_s is not None
        assert 60 < refused.retry_after_s <= 61.5

    async def test_there_is_room_when_it_said_there_would_be(
        self, windows: Windows
    ) -> None:
        charges = [Charge(rule(2, window_s=0.2))]
        for _ in range(2):
            await windows.reserve(charges)
        refused = await windows.reserve(charges)
        assert isinstance(refused, Refused)
        assert refused.retry_after_s
        await asyncio.sleep(refused.retry_after_s + 0.005)
        assert isinstance(await windows.reserve(charges), Reservation)

    async def test_all_rules_or_none(self, windows: Windows) -> None:
        wide, narrow = rule(100, bucket="wide"), rule(1, bucket="narrow")
        both = [Charge(wide, 10), Charge(narrow)]
        assert isinstance(await windows.reserve(both), Reservation)
        refused = await windows.reserve(both)
        assert isinstance(refused, Refused)
        assert refused.rule == narrow
        assert await windows.room([wide]) == 90
        assert await windows.room([wide, narrow]) == 0

    async def test_what_never_fits_is_told_apart(self, windows: Windows) -> None:
        assert await windows.reserve([Charge(rule(5), 6)]) == Refused(rule(5), None)

    async def test_a_refund_frees_the_moment_that_reserved_once(
        self, windows: Windows
    ) -> None:
        small = rule(2)
        first = await windows.reserve([Charge(small, 2)])
        assert isinstance(first, Reservation)
        await windows.refund(first)
        assert await windows.room([small]) == 2
        await windows.refund(first)  # twice by mistake makes no room out of nothing
        assert await windows.room([small]) == 2

    async def test_usage_of_the_past_is_counted_where_it_belongs(
        self, windows: Windows
    ) -> None:
        small = rule(10)
        old = [Usage(small, 4, 30.0), Usage(small, 3, 59.0), Usage(small, 9, 70.0)]
        await windows.add(old)
        assert await windows.room([small]) == 3
        refused = await windows.reserve([Charge(small, 5)])
        assert isinstance(refused, Refused)
        assert refused.retry_after_s is not None
        assert refused.retry_after_s < 4  # the one 59 s ago leaves soon

    async def test_a_clock_set_back_closes_nothing_for_longer_than_a_window(
        self, windows: Windows, ephemeral: Ephemeral
    ) -> None:
        small = rule(10)
        key = ephemeral.key("limit", f"{small.bucket}:{small.slot_ms}ms")
        taken = await windows.reserve([Charge(small)])
        assert isinstance(taken, Reservation)
        an_hour_on = (taken.at_ms + 3_600_000) // small.slot_ms
        await ephemeral.command("HSET", key, an_hour_on, 9)
        refused = await windows.reserve([Charge(small)])
        assert isinstance(refused, Refused)
        assert refused.retry_after_s is not None
        assert refused.retry_after_s < 65
        assert await ephemeral.command("HEXISTS", key, an_hour_on) == 0

    async def test_memory_is_flat_and_forgotten(
        self, windows: Windows, ephemeral: Ephemeral
    ) -> None:
        short = rule(10**6, window_s=0.2)
        key = ephemeral.key("limit", f"{short.bucket}:{short.slot_ms}ms")
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.5
        while loop.time() < until:
            await windows.reserve([Charge(short)])
            assert await ephemeral.command("HLEN", key) <= short.slots + 1
        assert 0 < await ephemeral.command("PTTL", key) < 1000

    async def test_no_interval_is_overshot_by_processes_that_compete(
        self, redis_url: str, ephemeral: Ephemeral
    ) -> None:
        limit, window_s = 60, 0.3
        taken = await _compete(redis_url, ephemeral.key(), limit, window_s)
        worst = worst_interval(taken, window_s * 1000)
        assert worst <= limit
        assert worst > 0.8 * limit  # they did compete
        lasted_s = (max(taken)[0] - min(taken)[0]) / 1000
        assert sum(units for _, units in taken) > 0.8 * limit * lasted_s / window_s


async def _compete(
    url: str, prefix: str, limit: int, window_s: float
) -> list[tuple[int, int]]:
    """Two processes, and one more client here while they start."""
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, COMPETITOR),
            json.dumps([url, prefix, limit, window_s, seed]),
            stdout=asyncio.subprocess.PIPE,
        )
        for seed in (1, 2)
    ]
    taken = []
    while processes[0].returncode is None and processes[1].returncode is None:
        taken += await compete(url, prefix, limit, window_s, seed=3)
    for process in processes:
        output, _ = await process.communicate()
        assert process.returncode == 0
        theirs = [(moment, units) for moment, units in json.loads(output)]
        assert theirs
        taken += theirs
    return taken
