"""Handlers are told in order; a broken one harms neither jobs nor other handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmgine_workers.events import emit
from llmgine_workers.events.emit import Events
from llmgine_workers.events.facts import Fact, GateOpened, StepReleased

FACTS = (StepReleased("openai", 3), GateOpened("openai", "breaker"))


class Keeps:
    """Keeps what it is told of the kinds it wants."""

    def __init__(self, *kinds: type[Fact]) -> None:
        self.kinds = kinds or (Fact,)
        self.told: list[Sequence[Fact]] = []
        self.closed = False

    def wants(self, kind: type[Fact]) -> bool:
        return issubclass(kind, self.kinds)

    async def handle(self, facts: Sequence[Fact]) -> None:
        self.told.append(tuple(facts))

    async def close(self) -> None:
        self.closed = True


class Raises(Keeps):
    async def handle(self, facts: Sequence[Fact]) -> None:
        raise RuntimeError("broken")

    async def close(self) -> None:
        raise RuntimeError("broken")


class Hangs(Keeps):
    async def handle(self, facts: Sequence[Fact]) -> None:
        self.told.append(tuple(facts))
        await asyncio.Event().wait()


async def test_facts_of_one_moment_come_together_in_their_order() -> None:
    keeps = Keeps()
    await Events([keeps]).emit(*FACTS)
    assert keeps.told == [FACTS]


async def test_a_handler_is_told_what_it_wants_only() -> None:
    opened, nothing = Keeps(GateOpened), Keeps(RuntimeError)  # type: ignore[arg-type]
    await Events([opened, nothing]).emit(*FACTS)
    assert opened.told == [FACTS[1:]]
    assert nothing.told == []


async def test_one_that_raises_harms_nobody_and_is_counted() -> None:
    keeps = Keeps()
    events = Events([Raises(), keeps])
    await events.emit(*FACTS)
    await events.close()
    assert keeps.told == [FACTS]
    assert keeps.closed
    assert events.missed == {"Raises": 2}


async def test_one_that_hangs_is_left_alone_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(emit, "HANDLER_S", 0.01)
    hangs, keeps = Hangs(), Keeps()
    events = Events([hangs, keeps])
    for _ in range(3):
        await events.emit(*FACTS)
    assert len(hangs.told) == 1
    assert len(keeps.told) == 3
    assert events.missed == {"Hangs": 6}


async def test_one_that_hung_gets_another_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(emit, "HANDLER_S", 0.01)
    monkeypatch.setattr(emit, "BENCH_S", 0.0)
    hangs = Hangs()
    events = Events([hangs])
    for _ in range(2):
        await events.emit(*FACTS)
    assert len(hangs.told) == 2


async def test_a_cancelled_caller_is_cancelled() -> None:
    task = asyncio.create_task(Events([Hangs()]).emit(*FACTS))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
