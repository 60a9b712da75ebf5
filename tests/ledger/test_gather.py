"""Gathering: together while it is busy, alone in trouble, and never without an end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmgine_workers.ledger import gather
from llmgine_workers.ledger.connection import LedgerDown
from llmgine_workers.ledger.gather import Gatherer


class Doubler:
    """A statement that lasts until it is let go."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.open = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.seen.append(list(items))
        await self.open.wait()
        if 13 in items:
            raise ValueError("13 cannot be stored")
        return [KeyError(item) if item == 7 else 2 * item for item in items]


async def asked(
    gatherer: Gatherer[int, int], items: Sequence[int]
) -> list[asyncio.Task[int]]:
    tasks = [asyncio.ensure_future(gatherer(item)) for item in items]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_what_comes_meanwhile_goes_together_into_the_next() -> None:
    work = Doubler()
    gatherer = Gatherer(work, flights=1)
    first = await asked(gatherer, [1])
    later = await asked(gatherer, [2, 3]) + await asked(gatherer, [4])
    assert work.seen == [[1]]
    work.open.set()
    assert await asyncio.gather(*first, *later) == [2, 4, 6, 8]
    assert work.seen == [[1], [2, 3, 4]]


async def test_only_so_many_are_under_way_at_a_time() -> None:
    work = Doubler()
    gatherer = Gatherer(work, flights=2)
    tasks = [task for n in range(4) for task in await asked(gatherer, [n])]
    assert work.seen == [[0], [1]]
    work.open.set()
    await asyncio.gather(*tasks)


async def test_no_statement_weighs_more_than_it_may_unless_one_item_does() -> None:
    work = Doubler()
    gatherer = Gatherer(work, at_most=10, weigh=lambda item: item, flights=1)
    work.open.set()
    await asyncio.gather(*await asked(gatherer, [5, 5, 1, 50, 2]))
    assert work.seen == [[5, 5], [1], [50], [2]]


async def test_an_answer_that_is_an_exception_is_only_its_askers() -> None:
    work = Doubler()
    work.open.set()
    tasks = await asked(Gatherer(work), [6, 7, 8])
    assert await tasks[0] == 12
    with pytest.raises(KeyError):
        await tasks[1]
    assert await tasks[2] == 16


async def test_a_poisonous_item_fails_alone() -> None:
    work = Doubler()
    work.open.set()
    tasks = await asked(Gatherer(work), [12, 13, 14])
    assert (await tasks[0], await tasks[2]) == (24, 28)
    with pytest.raises(ValueError, match="13 cannot be stored"):
        await tasks[1]


async def test_an_absent_ledger_is_told_to_all_and_asked_no_more() -> None:
    asks = 0

    async def away(items: Sequence[int]) -> list[int]:
        nonlocal asks
        asks += 1
        raise LedgerDown("the ledger does not answer")

    tasks = await asked(Gatherer(away), [1, 2, 3])
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in found] == [LedgerDown] * 3
    assert len({id(one) for one in found}) == 3, "each has a trace of its own"
    assert asks == 1


async def test_a_ledger_that_goes_away_between_single_tries_is_told_to_the_rest() -> None:
    seen: list[list[int]] = []

    async def work(items: Sequence[int]) -> list[int]:
        seen.append(list(items))
        if len(items) > 1:
            raise ValueError("one of them is poisonous")
        if items == [2]:
            raise LedgerDown("the ledger does not answer")
        return list(items)

    tasks = await asked(Gatherer(work), [1, 2, 3, 4])
    assert await tasks[0] == 1
    for task in tasks[1:]:
        with pytest.raises(LedgerDown):
            await task
    assert seen == [[1, 2, 3, 4], [1], [2]]


async def test_who_gives_up_in_time_takes_the_item_back() -> None:
    work = Doubler()
    gatherer = Gatherer(work, flights=1)
    first = await asked(gatherer, [1])
    (second, third) = await asked(gatherer, [2, 3])
    second.cancel()
    first[0].cancel()
    await asyncio.sleep(0)
    work.open.set()
    assert await third == 6
    assert work.seen == [[1], [3]]


async def test_more_than_fits_into_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gather, "WAITING_AT_MOST", 2)
    work = Doubler()
    gatherer = Gatherer(work, flights=1)
    tasks = await asked(gatherer, [1]) + await asked(gatherer, [2, 3])
    with pytest.raises(LedgerDown):
        await gatherer(4)
    work.open.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6]


async def test_the_end_of_the_process_leaves_nobody_waiting() -> None:
    class End(BaseException):
        """What nothing of ours catches."""

    async def ending(items: Sequence[int]) -> list[int]:
        await asyncio.sleep(0)
        raise End

    gatherer = Gatherer(ending, at_most=1, flights=1)
    tasks = await asked(gatherer, [1, 2, 3])
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in found] == [End] * 3
