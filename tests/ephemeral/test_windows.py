"""No interval of a window's length sees more than the limit, whoever reserves."""

from __future__ import annotations

import asyncio
import json
import sys
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path

import pytest

from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.ephemeral.gate import Lost, Refused, Reservation
from llmgine_workers.ephemeral.rules import Charge, InFlight, Lease, Usage, Window
from llmgine_workers.ephemeral.windows import epoch_key, rule_key
from tests.ephemeral.asking import Door
from tests.ephemeral.competitor import compete
from tests.ephemeral.conftest import eventually_true

COMPETITOR = str(Path(__file__).with_name("competitor.py"))


def rule(limit: int, window_s: float = 60, bucket: str = "b") -> Window:
    return Window(f"{limit}/{window_s}s", bucket, limit, window_s)


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
    def door(self, ephemeral: Ephemeral) -> Door:
        return Door(ephemeral)

    async def test_it_admits_up_to_the_limit_and_says_when_there_is_room(
        self, door: Door
    ) -> None:
        for _ in range(3):
            await door.reserved(Charge(rule(3)))
        refused = await door.refused(Charge(rule(3)))
        assert refused.retry_after_s is not None
        assert 60 < refused.retry_after_s <= 61.5

    async def test_there_is_room_when_it_said_there_would_be(self, door: Door) -> None:
        charge = Charge(rule(2, window_s=0.2))
        for _ in range(2):
            await door.reserved(charge)
        refused = await door.refused(charge)
        assert refused.retry_after_s
        await asyncio.sleep(refused.retry_after_s + 0.005)
        await door.reserved(charge)

    async def test_all_rules_or_none(self, door: Door) -> None:
        wide, narrow = rule(100, bucket="wide"), rule(1, bucket="narrow")
        slots = InFlight("2 in flight", "slots", 2)
        all_of_them = (Charge(wide, 10), Charge(slots), Charge(narrow))
        await door.reserved(*all_of_them)
        assert (await door.refused(*all_of_them)).rule == narrow
        assert await door.left(wide, slots, narrow) == [90, 1, 0]

    async def test_what_never_fits_is_told_apart(self, door: Door) -> None:
        assert await door.refused(Charge(rule(5), 6)) == Refused(rule(5), None)

    async def test_a_refund_frees_the_moment_that_reserved_once(self, door: Door) -> None:
        small = rule(2)
        first = await door.reserved(Charge(small, 2))
        await door.refund(first)
        assert await door.left(small) == [2]
        await door.refund(first)  # twice by mistake makes no room out of nothing
        assert await door.left(small) == [2]

    async def test_a_call_that_used_less_gives_back_the_rest_where_it_was(
        self, door: Door
    ) -> None:
        tokens = rule(1000)
        first = await door.reserved(Charge(tokens, 900))
        assert await door.windows.settle(first, [120]) == []
        assert await door.left(tokens) == [880]

    async def test_a_call_that_begins_late_is_counted_when_it_begins(
        self, door: Door, ephemeral: Ephemeral
    ) -> None:
        tokens = rule(1000, window_s=1.2)
        first = await door.reserved(Charge(tokens, 900))
        await asyncio.sleep(0.03)
        moved = await door.windows.move(first)
        assert moved.at_ms // tokens.slot_ms > first.at_ms // tokens.slot_ms
        counted = await ephemeral.command("HGETALL", rule_key(ephemeral, tokens))
        slots = {int(f): int(n) for f, n in zip(counted[::2], counted[1::2], strict=True)
                 if f.isdigit()}  # fmt: skip
        assert slots == {
            first.at_ms // tokens.slot_ms: 0,
            moved.at_ms // tokens.slot_ms: 900,
        }
        await door.windows.settle(moved, [0])
        assert await door.left(tokens) == [1000]

    async def test_a_call_that_used_more_is_counted_and_told(self, door: Door) -> None:
        tokens = rule(1000)
        first = await door.reserved(Charge(tokens, 900))
        assert await door.windows.settle(first, [1100]) == [(tokens, 100)]
        assert await door.left(tokens) == [-100]

    async def test_calls_in_flight_hold_slots_until_they_end(self, door: Door) -> None:
        slots = InFlight("2 in flight", "slots", 2)
        first, _ = [await door.reserved(Charge(slots)) for _ in range(2)]
        refused = await door.refused(Charge(slots))
        assert (refused.rule, refused.retry_after_s) == (slots, 1.0)
        await door.refund(first)
        await door.reserved(Charge(slots))

    async def test_the_slot_of_a_killed_worker_comes_back_when_its_call_is_overdue(
        self, door: Door
    ) -> None:
        slots = InFlight("1 in flight", "slots", 1)
        taken = await door.ask(Charge(slots), lease_s=0.05)
        assert isinstance(taken, Reservation)

        async def is_free() -> bool:
            return isinstance(await door.ask(Charge(slots)), Reservation)

        await eventually_true(is_free)

    async def test_a_learned_rule_reserves_what_calls_use_of_their_bounds(
        self, door: Door
    ) -> None:
        tokens = replace(rule(10**6), learned=True)
        for _ in range(60):
            call = await door.reserved(Charge(tokens, 1000))
            await door.windows.settle(call, [200])
        reserved = (await door.reserved(Charge(tokens, 1000))).charges[0].amount
        assert 240 <= reserved <= 270  # a fifth, and a margin of a quarter of it

    async def test_usage_of_the_past_is_counted_where_it_belongs(
        self, door: Door
    ) -> None:
        small = rule(10)
        old = [Usage(small, 4, 30.0), Usage(small, 3, 59.0), Usage(small, 9, 70.0)]
        slots = InFlight("5 in flight", "slots", 5)
        await door.windows.add(old, [Lease(slots, "a call", 60.0)])
        assert await door.left(small, slots) == [3, 4]
        refused = await door.refused(Charge(small, 5))
        assert refused.retry_after_s is not None
        assert refused.retry_after_s < 4  # the one 59 s ago leaves soon

    async def test_a_clock_set_back_closes_nothing_for_longer_than_a_window(
        self, door: Door, ephemeral: Ephemeral
    ) -> None:
        small = rule(10)
        key = rule_key(ephemeral, small)
        taken = await door.reserved(Charge(small))
        an_hour_on = (taken.at_ms + 3_600_000) // small.slot_ms
        await ephemeral.command("HSET", key, an_hour_on, 9)
        refused = await door.refused(Charge(small))
        assert refused.retry_after_s is not None
        assert refused.retry_after_s < 65
        assert await ephemeral.command("HEXISTS", key, an_hour_on) == 0

    async def test_memory_is_flat_and_forgotten(
        self, door: Door, ephemeral: Ephemeral
    ) -> None:
        short = rule(10**9, window_s=0.2)
        key = rule_key(ephemeral, short)
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.5
        while loop.time() < until:
            await door.reserved(Charge(short, 10_000))
            assert await ephemeral.command("HLEN", key) <= short.slots + 2
        encoding = await ephemeral.command("OBJECT", "ENCODING", key)
        assert encoding == b"listpack"
        assert 0 < await ephemeral.command("PTTL", key) < 11_000


@pytest.mark.integration
class TestAnEmptiedRedis:
    async def test_it_is_noticed_before_anything_is_admitted(
        self, ephemeral: Ephemeral
    ) -> None:
        door = Door(ephemeral)
        await door.reserved(Charge(rule(3)))
        await ephemeral.command("DEL", epoch_key(ephemeral))
        found = await door.ask(Charge(rule(3)))
        assert isinstance(found, Lost)
        assert await door.left(rule(3)) == [2]  # nothing was counted
        door.gate.epoch = found.epoch
        await door.reserved(Charge(rule(3)))

    async def test_a_new_process_takes_it_as_it_is(self, ephemeral: Ephemeral) -> None:
        await Door(ephemeral).reserved(Charge(rule(3)))
        await Door(ephemeral).reserved(Charge(rule(3)))


@pytest.mark.integration
class TestALargeCall:
    """Small ones would take the room piece by piece for ever."""

    async def test_it_gets_the_next_room_before_smaller_ones(
        self, ephemeral: Ephemeral
    ) -> None:
        door, tokens = Door(ephemeral), rule(100, window_s=0.5)
        loop = asyncio.get_running_loop()
        until, admitted = loop.time() + 5, False
        while not admitted and loop.time() < until:
            await door.ask(Charge(tokens, 4), step="2-small")
            large = await door.ask(Charge(tokens, 60), step="1-large")
            admitted = isinstance(large, Reservation)
            await asyncio.sleep(0.005)
        assert admitted

    async def test_others_use_what_it_does_not_need(self, ephemeral: Ephemeral) -> None:
        door, tokens = Door(ephemeral), rule(100)
        await door.reserved(Charge(tokens, 50))
        await door.refused(Charge(tokens, 60), step="1-large")
        assert (await door.windows.left([tokens]))[0].claim == ("1-large", 60)
        refused = await door.refused(Charge(tokens, 4), step="2-small")
        assert refused.retry_after_s is not None
        assert refused.retry_after_s > 59
        with_more = rule(130)
        await door.reserved(Charge(with_more, 4), step="2-small")

    async def test_the_oldest_of_several_has_the_claim(
        self, ephemeral: Ephemeral
    ) -> None:
        door, tokens = Door(ephemeral), rule(100)
        await door.reserved(Charge(tokens, 90))
        for step in ("2-large", "3-large", "1-large", "2-large"):
            await door.refused(Charge(tokens, 60), step=step)
        assert (await door.windows.left([tokens]))[0].claim == ("1-large", 60)

    async def test_it_gives_the_claim_up_when_it_is_admitted(
        self, ephemeral: Ephemeral
    ) -> None:
        door, tokens = Door(ephemeral), rule(100)
        first = await door.reserved(Charge(tokens, 90))
        await door.refused(Charge(tokens, 60), step="1-large")
        await door.refund(first)
        await door.reserved(Charge(tokens, 60), step="1-large")
        await door.reserved(Charge(tokens, 40), step="2-small")

    async def test_small_ones_claim_nothing(self, ephemeral: Ephemeral) -> None:
        door, tokens = Door(ephemeral), rule(100)
        await door.reserved(Charge(tokens, 98))
        await door.refused(Charge(tokens, 5))
        assert (await door.windows.left([tokens]))[0].claim is None


@pytest.mark.integration
class TestAProviderThatCountsMore:
    async def settle(self, door: Door, limit: int, theirs: int) -> list[int]:
        tokens = rule(limit)
        call = await door.reserved(Charge(tokens, 100))
        await door.windows.settle(call, [100], {tokens: theirs})
        return await door.left(tokens)

    async def test_its_figure_is_believed(self, ephemeral: Ephemeral) -> None:
        assert await self.settle(Door(ephemeral), 1000, 300) == [300]

    async def test_one_that_counts_less_gives_nothing_away(
        self, ephemeral: Ephemeral
    ) -> None:
        assert await self.settle(Door(ephemeral), 1000, 5000) == [900]

    async def test_a_little_more_is_the_time_between_its_figure_and_ours(
        self, ephemeral: Ephemeral
    ) -> None:
        assert await self.settle(Door(ephemeral), 1000, 880) == [900]

    async def test_many_that_saw_the_same_correct_it_once(
        self, ephemeral: Ephemeral
    ) -> None:
        door, tokens = Door(ephemeral), rule(1000)
        calls = [await door.reserved(Charge(tokens, 10)) for _ in range(5)]
        for call in calls:
            await door.windows.settle(call, [10], {tokens: 500})
        (left,) = await door.left(tokens)
        assert 440 <= left <= 500


@pytest.mark.integration
class TestCompetition:
    async def test_no_interval_is_overshot_by_processes_that_compete(
        self, redis_url: str, ephemeral: Ephemeral
    ) -> None:
        limit, window_s = 60, 0.3
        taken = await _compete(redis_url, ephemeral.key(), limit, window_s)
        worst = worst_interval(taken, window_s * 1000)
        assert worst <= limit
        assert worst > 0.8 * limit  # they did compete


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
