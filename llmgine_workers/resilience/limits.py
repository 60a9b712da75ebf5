"""The limits the engine sees: shared while Redis lives, else a local share of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmgine_workers.ephemeral.connection import EphemeralDown
from llmgine_workers.ephemeral.windows import (
    Charge,
    Refused,
    Reservation,
    Rule,
    Usage,
    Windows,
)
from llmgine_workers.resilience.local_window import LocalWindow
from llmgine_workers.settings import LimitSettings


@dataclass(frozen=True)
class Reserved:
    """Room in every rule of the provider, counted.

    `shared` is None if it was counted in this process alone; `slots` are the places
    in this process's own windows.
    """

    charges: tuple[Charge, ...]
    slots: tuple[int, ...]
    shared: Reservation | None


@dataclass(frozen=True)
class NoRoom:
    """A rule had none; `retry_after_s` is None if it never has that much."""

    detail: str
    retry_after_s: float | None


def rules_of(limits: Iterable[LimitSettings]) -> dict[str, tuple[Rule, ...]]:
    """The rules of each provider, from the settings."""
    rules: dict[str, tuple[Rule, ...]] = {}
    for limit in limits:
        rate = limit.requests
        rule = Rule(
            name=f"{limit.match} {rate.count} requests/{_short(rate.window_s)}",
            bucket=f"{limit.provider}:requests:{_short(rate.window_s)}",
            limit=rate.count,
            window_s=rate.window_s,
        )
        rules[limit.provider] = (*rules.get(limit.provider, ()), rule)
    return rules


def _short(seconds: float) -> str:
    for unit, length in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds * 1000:g}ms"


class Limiter:
    """Reserves calls of a provider in all its rules, or in none.

    `live_workers` is how many workers of this one's pool share the limits; the
    runtime sets it from the heartbeat.
    """

    def __init__(
        self,
        windows: Windows,
        rules: Mapping[str, Sequence[Rule]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.live_workers = 1
        self._windows = windows
        self._rules = rules
        self._clock = clock
        every = {rule for some in rules.values() for rule in some}
        # All that this process used: so that, when Redis goes away, its share starts
        # from what it has had already.
        self._own = {rule: LocalWindow(rule) for rule in every}
        # What Redis does not know yet.
        self._owed = {rule: LocalWindow(rule) for rule in every}
        self._owes = False
        self._paying = asyncio.Lock()

    async def reserve(self, provider: str) -> Reserved | NoRoom:
        """Room for one call now, or when to ask again. Never raises, waits <= 0.2 s."""
        charges = tuple(Charge(rule) for rule in self._rules.get(provider, ()))
        if not charges:
            return Reserved((), (), None)
        try:
            await self._pay()
            answer = await self._windows.reserve(charges)
        except EphemeralDown:
            return self._reserve_here(charges)
        if isinstance(answer, Refused):
            return NoRoom(f"{answer.rule.name} is used up", answer.retry_after_s)
        return Reserved(charges, self._count(self._own, charges), answer)

    async def refund(self, reserved: Reserved) -> None:
        """The call was not made: give its room back."""
        self._uncount(self._own, reserved)
        if reserved.shared is None:
            self._uncount(self._owed, reserved)
            return
        try:
            await self._windows.refund(reserved.shared)
        except EphemeralDown:
            return  # the room comes back by itself when the window has passed

    async def room(self, provider: str, at_most: int) -> int:
        """How many calls would be admitted now, up to `at_most`; counts nothing."""
        rules = self._rules.get(provider, ())
        if not rules:
            return at_most
        try:
            return min(at_most, await self._windows.room(rules))
        except EphemeralDown:
            # Only the workers know their shares; let each of them have its own.
            return min(at_most, *(rule.limit for rule in rules))

    def _reserve_here(self, charges: tuple[Charge, ...]) -> Reserved | NoRoom:
        now, workers = self._clock(), self.live_workers
        for charge in charges:
            own = self._own[charge.rule]
            wait = own.wait_s(charge.amount, workers, now)
            if wait != 0:
                share = own.share(workers)
                detail = (
                    f"this worker's share of {charge.rule.name}, {share}, "
                    "is used up while Redis is away"
                )
                return NoRoom(detail, wait)
        self._owes = True
        slots = self._count(self._own, charges)
        self._count(self._owed, charges)
        return Reserved(charges, slots, None)

    def _count(
        self, windows: Mapping[Rule, LocalWindow], charges: tuple[Charge, ...]
    ) -> tuple[int, ...]:
        now = self._clock()
        return tuple(windows[charge.rule].add(charge.amount, now) for charge in charges)

    def _uncount(self, windows: Mapping[Rule, LocalWindow], reserved: Reserved) -> None:
        for charge, slot in zip(reserved.charges, reserved.slots, strict=True):
            windows[charge.rule].take_back(slot, charge.amount)

    async def _pay(self) -> None:
        """Tell Redis, once it is back, what was used without it."""
        if not (self._owes or self._paying.locked()):
            return
        async with self._paying:  # nobody reserves before the debt is counted
            if self._owes:
                await self._pay_all()

    async def _pay_all(self) -> None:
        owed, self._owed = self._owed, {rule: LocalWindow(rule) for rule in self._owed}
        self._owes = False
        now = self._clock()
        used = [
            Usage(rule, amount, age)
            for rule, window in owed.items()
            for age, amount in window.ages(now)
        ]
        try:
            if used:
                await self._windows.add(used)
        except BaseException:  # a cancelled step must not forget it either
            for rule, window in owed.items():
                self._owed[rule].absorb(window)
            self._owes = True
            raise
