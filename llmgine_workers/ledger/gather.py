"""Gathers: what comes while one statement is in flight goes together into the next.

No timer: a lone item goes at once, and the busier it gets, the more go together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

from llmgine_workers.ledger.connection import LedgerDown

AT_MOST = 200
"""Items of one statement: more make it longer, hardly cheaper by the piece."""

WAITING_AT_MOST = 20_000
"""Items in memory while the ledger is slow; what comes then is refused."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Answers: TypeAlias = Sequence[Answer | Exception]
Waiting: TypeAlias = tuple[Item, asyncio.Future[Answer]]


def _one(_: object) -> int:
    return 1


class Gatherer(Generic[Item, Answer]):
    """Has `work` done on many items at once, and gives each asker its own answer.

    `work` answers for its items in their order; an exception among them is raised for
    that asker only. If it raises LedgerDown, all are told; if it raises anything else,
    each item is tried alone, so that one poisonous item fails alone.

    Together they weigh `at_most` (each 1, unless `weigh` says otherwise) or are one;
    `flights` of them are under way at a time. An asker that gives up before its item is
    taken takes it back.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Answers[Answer]]],
        *,
        at_most: int = AT_MOST,
        weigh: Callable[[Item], int] = _one,
        flights: int = 2,
    ) -> None:
        self._work = work
        self._at_most = at_most
        self._weigh = weigh
        self._flights = flights
        self._waiting: deque[Waiting[Item, Answer]] = deque()
        self._flying: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item) -> Answer:
        """The answer for one item; LedgerDown also if too many wait already."""
        if len(self._waiting) >= WAITING_AT_MOST:
            raise LedgerDown("the ledger is slower than what is asked of it")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, answer))
        if len(self._flying) < self._flights:
            # It takes its items when it first runs: also what comes until then.
            flight = loop.create_task(self._fly())
            self._flying.add(flight)
            flight.add_done_callback(self._flying.discard)
        return await answer

    async def _fly(self) -> None:
        taken: list[Waiting[Item, Answer]] = []
        try:
            while taken := self._taken():
                await self._settle(taken)
        except BaseException as end:  # of the process: nobody is to wait for ever
            for _, waiting in (*taken, *self._waiting):
                _tell(waiting, end)
            self._waiting.clear()
            raise

    def _taken(self) -> list[Waiting[Item, Answer]]:
        taken: list[Waiting[Item, Answer]] = []
        weight = 0
        while self._waiting:
            item, answer = self._waiting[0]
            if not answer.done():
                weight += self._weigh(item)
                if taken and weight > self._at_most:
                    break
                taken.append((item, answer))
            self._waiting.popleft()
        return taken

    async def _settle(self, taken: Sequence[Waiting[Item, Answer]]) -> None:
        try:
            answers = await self._answers(taken)
        except Exception as error:
            # Whatever one item did to the statement is no other item's fault.
            if len(taken) > 1:
                await self._settle_each(taken)
                return
            answers = [error]
        for (_, waiting), answer in zip(taken, answers, strict=True):
            _tell(waiting, answer)

    async def _settle_each(self, taken: Sequence[Waiting[Item, Answer]]) -> None:
        for n, one in enumerate(taken):
            await self._settle([one])
            if isinstance(_error(one), LedgerDown):  # no time-out for each of the others
                for _, waiting in taken[n + 1 :]:
                    _tell(waiting, LedgerDown("the ledger went away"))
                return

    async def _answers(self, taken: Sequence[Waiting[Item, Answer]]) -> Answers[Answer]:
        try:
            return await self._work([item for item, _ in taken])
        except LedgerDown as error:
            return [LedgerDown(str(error)) for _ in taken]


def _error(one: Waiting[Item, Answer]) -> BaseException | None:
    _, answer = one
    return answer.exception() if answer.done() and not answer.cancelled() else None


def _tell(waiting: asyncio.Future[Answer], answer: Answer | BaseException) -> None:
    if waiting.done():
        return
    if isinstance(answer, asyncio.CancelledError):
        waiting.cancel()
    elif isinstance(answer, BaseException):
        waiting.set_exception(answer)
    else:
        waiting.set_result(answer)
