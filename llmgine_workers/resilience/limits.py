"""The limits the engine sees: shared while Redis lives, else a local share of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.ephemeral.gate import Asked, Closed, Gate, Lost, Refused, Reservation
from llmgine_workers.ephemeral.rules import Charge, Rule, Window
from llmgine_workers.ephemeral.windows import Left, Windows, usual_amount
from llmgine_workers.resilience.local_share import LocalShare, NoRoom, never
from llmgine_workers.resilience.rules import Units, unit_of

PATIENCE_SHARE = 0.3
"""Of the slack that a call may be late: then it is counted again when it begins. The rest
is for its way to the provider."""

GateAnswer: TypeAlias = Reservation | Closed | Refused | Lost


@dataclass(frozen=True)
class Reserved:
    """Room in every rule of a call, counted.

    `shared` is None if it was counted in this process alone; `places` are those in
    this process's own windows.
    """

    call: str
    charges: tuple[Charge, ...]
    places: tuple[int, ...]
    shared: Reservation | None
    lease_s: float = 0.0
    asked_at: float = 0.0
    """Before it was asked for, by this process's monotonic clock."""


class Limiter:
    """Reserves a call in all its rules, or in none.

    `live_workers` is how many workers of this one's pool share the limits; the
    runtime sets it from the heartbeat.
    """

    def __init__(
        self, gate: Gate, windows: Windows, *, clock: Callable[[], float]
    ) -> None:
        self.live_workers = 1
        self._gate = gate
        self._windows = windows
        self._clock = clock
        # All that this process used: so that, when Redis goes away, its share starts
        # from what it has had already, and an emptied one can be told.
        self._own = LocalShare(clock)
        # What Redis does not know yet.
        self._owed = LocalShare(clock)
        self._owes = False
        self._paying = asyncio.Lock()
        self._questions: dict[tuple[str, str], asyncio.Task[GateAnswer]] = {}

    async def reserve(
        self, asked: Asked, *, probe_lease_s: float
    ) -> Reserved | NoRoom | Closed:
        """Ask the shared gate; raises EphemeralDown after at most 0.2 s."""
        await self._pay()
        asked_at = self._clock()
        answer = await self._admit(asked, probe_lease_s)
        if isinstance(answer, Lost):
            await self._count_again(answer)
            asked_at = self._clock()
            answer = await self._admit(asked, probe_lease_s)
        if isinstance(answer, Reservation):
            places = self._own.count(asked.call, answer.charges, asked.lease_s)
            return Reserved(
                asked.call, answer.charges, places, answer, asked.lease_s, asked_at
            )
        if isinstance(answer, Lost):
            raise EphemeralDown("emptied twice in a moment")
        return _no_room(asked, answer) if isinstance(answer, Refused) else answer

    def reserve_here(self, asked: Asked) -> Reserved | NoRoom:
        """The same out of this process's share, while Redis is away."""
        refusal = self._own.refusal(asked.charges, self.live_workers)
        if refusal:
            return refusal
        self._owes = self._owes or bool(asked.charges)
        places = self._own.count(asked.call, asked.charges, asked.lease_s)
        self._owed.count(asked.call, asked.charges, asked.lease_s)
        return Reserved(asked.call, asked.charges, places, None, asked.lease_s)

    async def begin(self, reserved: Reserved) -> Reserved:
        """The call begins now. One that comes late is counted now, so that it does not
        outlast what was counted for it: answers what is to be settled."""
        delay_s = self._clock() - reserved.asked_at
        if reserved.shared is None or delay_s < _patience_s(reserved.charges):
            return reserved
        try:
            moved = await self._windows.move(reserved.shared)
        except EphemeralDown:
            return reserved
        return replace(reserved, shared=moved)

    async def settle(
        self,
        reserved: Reserved,
        used: Units | None,
        theirs: Mapping[Rule, int] | None = None,
    ) -> list[tuple[Rule, int]]:
        """The call is over: count what it used; None: all that was reserved.

        Answers the rules it overshot and by how much: only those with a learned
        estimate can be.
        """
        charges = reserved.charges
        if not charges:
            return []
        units = [
            charge.amount if used is None else used[unit_of(charge.rule)]
            for charge in charges
        ]
        self._own.settle(reserved.call, charges, reserved.places, units)
        try:
            if reserved.shared is not None:
                return await self._windows.settle(reserved.shared, units, theirs)
            self._owed.settle(reserved.call, charges, reserved.places, units)
            await self._windows.free(reserved.call, [c.rule for c in charges])
        except EphemeralDown:
            pass  # the room comes back by itself when its window has passed
        return []

    async def refund(self, reserved: Reserved) -> None:
        """The call was not made: give its room back."""
        units = dict.fromkeys(map(unit_of, (c.rule for c in reserved.charges)), 0)
        await self.settle(reserved, units)

    async def left(self, rules: Iterable[Rule]) -> dict[Rule, Left]:
        """What each rule has left."""
        every = tuple(dict.fromkeys(rules))
        if not every:
            return {}
        try:
            return dict(zip(every, await self._windows.left(every), strict=True))
        except EphemeralDown:
            # Only the workers know their shares; let each of them have its own.
            return {rule: Left(rule.limit, usual_amount(rule)) for rule in every}

    async def _admit(self, asked: Asked, probe_lease_s: float) -> GateAnswer:
        """Calls that no rule counts ask together, if they ask in one turn of the loop."""
        if asked.charges:
            return await self._gate.admit(asked, probe_lease_s=probe_lease_s)
        whose = asked.provider, asked.model
        question = self._questions.get(whose)
        if question is None:
            question = asyncio.create_task(self._ask(asked, probe_lease_s))
            self._questions[whose] = question
            return await asyncio.shield(question)
        answer = await asyncio.shield(question)
        if isinstance(answer, Reservation) and answer.is_probe:  # it is one call's
            return await self._gate.admit(asked, probe_lease_s=probe_lease_s)
        return answer

    async def _ask(self, asked: Asked, probe_lease_s: float) -> GateAnswer:
        await asyncio.sleep(0)  # whoever asks until then has this answer too
        del self._questions[asked.provider, asked.model]
        return await self._gate.admit(asked, probe_lease_s=probe_lease_s)

    async def _pay(self) -> None:
        """Tell Redis, once it is back, what was used without it."""
        if not (self._owes or self._paying.locked()):
            return
        async with self._paying:  # nobody reserves before the debt is counted
            if self._owes:
                await self._pay_all()

    async def _pay_all(self) -> None:
        owed, self._owed = self._owed, LocalShare(self._clock)
        self._owes = False
        try:
            epoch = await self._gate.present_epoch()
            emptied = epoch != self._gate.epoch
            await self._add(self._own if emptied else owed)
            self._gate.epoch = epoch
        except BaseException:  # a cancelled step must not forget it either
            self._owed.absorb(owed)
            self._owes = True
            raise

    async def _count_again(self, lost: Lost) -> None:
        """Redis was emptied: count there what this process knows it used itself."""
        async with self._paying:
            if self._gate.epoch != lost.epoch:  # of many that were told, one counts
                await self._add(self._own)
                self._gate.epoch = lost.epoch

    async def _add(self, share: LocalShare) -> None:
        used, leases = share.usages(), share.leases()
        if used or leases:
            await self._windows.add(used, leases)


def _no_room(asked: Asked, refused: Refused) -> NoRoom:
    if refused.retry_after_s is None:
        (charge, *_) = _too_large(asked.charges)
        return NoRoom(never(charge), None)
    full = "is in use" if unit_of(refused.rule) == "in_flight" else "is used up"
    return NoRoom(f"{refused.rule.name} {full}", refused.retry_after_s)


def _too_large(charges: Sequence[Charge]) -> list[Charge]:
    return [charge for charge in charges if charge.amount > charge.rule.limit]


def _patience_s(charges: Sequence[Charge]) -> float:
    slacks = [c.rule.slack_s for c in charges if isinstance(c.rule, Window)]
    return PATIENCE_SHARE * min(slacks, default=math.inf)
