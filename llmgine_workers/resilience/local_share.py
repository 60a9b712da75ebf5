"""What this process used of every limit: its careful share while Redis is away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llmgine_workers.ephemeral.rules import Charge, InFlight, Lease, Rule, Usage, Window
from llmgine_workers.resilience.local_window import LOCAL_SHARE, LocalWindow

LOOK_AGAIN_S = 5.0
"""For a call that is larger than the share, or finds no slot, Redis may be back soon."""
MANY = 1000
"""Windows kept before those of tenants that are silent are forgotten."""


@dataclass(frozen=True)
class NoRoom:
    """A rule had none; `retry_after_s` is None if it never has that much."""

    detail: str
    retry_after_s: float | None


class LocalShare:
    """All that this process counted, rule by rule, and its calls in flight."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._windows: dict[Window, LocalWindow] = {}
        self._leases: dict[InFlight, dict[str, float]] = {}

    def refusal(self, charges: Iterable[Charge], workers: int) -> NoRoom | None:
        """Why this worker's share has no room now; None if it has."""
        for charge in charges:
            found = self._refusal(charge, workers)
            if found:
                return found
        return None

    def count(
        self, call: str, charges: Iterable[Charge], lease_s: float
    ) -> tuple[int, ...]:
        """Count a call; answers its places, for `settle`."""
        now = self._clock()
        return tuple(self._count(call, charge, now, lease_s) for charge in charges)

    def settle(
        self,
        call: str,
        charges: Iterable[Charge],
        places: Iterable[int],
        used: Iterable[int],
    ) -> None:
        """The call is over and used so much of what was counted."""
        for charge, place, units in zip(charges, places, used, strict=True):
            if isinstance(charge.rule, InFlight):
                self._live(charge.rule).pop(call, None)
            elif charge.rule in self._windows:
                window = self._windows[charge.rule]
                window.take_back(place, charge.amount - units)

    def usages(self) -> list[Usage]:
        """What was used within the windows, and when."""
        now = self._clock()
        return [
            Usage(rule, amount, age)
            for rule, window in self._windows.items()
            for age, amount in window.ages(now)
        ]

    def leases(self) -> list[Lease]:
        """The calls in flight, by rule."""
        now = self._clock()
        return [
            Lease(rule, call, ends - now)
            for rule in self._leases
            for call, ends in self._live(rule).items()
        ]

    def absorb(self, other: LocalShare) -> None:
        """Count all that the other one counted."""
        for rule, window in other._windows.items():
            self._window(rule).absorb(window)
        for bucket, calls in other._leases.items():
            self._leases.setdefault(bucket, {}).update(calls)

    def _refusal(self, charge: Charge, workers: int) -> NoRoom | None:
        rule = charge.rule
        if charge.amount > rule.limit:
            return NoRoom(never(charge), None)
        if isinstance(rule, InFlight):
            share = max(1, int(rule.limit * LOCAL_SHARE / max(1, workers)))
            wait = LOOK_AGAIN_S if len(self._live(rule)) >= share else 0.0
            return _used_up(rule, share, wait) if wait else None
        window = self._window(rule)
        share = window.share(workers)
        if charge.amount > share:
            return NoRoom(
                f"needs {charge.amount} of {rule.name}, more than this worker's share "
                f"of it, {share}, while Redis is away",
                LOOK_AGAIN_S,
            )
        wait = window.wait_s(charge.amount, workers, self._clock()) or 0.0
        return _used_up(rule, share, wait) if wait else None

    def _count(self, call: str, charge: Charge, now: float, lease_s: float) -> int:
        if isinstance(charge.rule, InFlight):
            self._live(charge.rule)[call] = now + lease_s
            return 0
        return self._window(charge.rule).add(charge.amount, now)

    def _window(self, rule: Window) -> LocalWindow:
        if rule not in self._windows:
            if len(self._windows) >= MANY:
                self._forget_silent()
            self._windows[rule] = LocalWindow(rule)
        return self._windows[rule]

    def _forget_silent(self) -> None:
        now = self._clock()
        silent = [rule for rule, own in self._windows.items() if not [*own.ages(now)]]
        for rule in silent:
            del self._windows[rule]

    def _live(self, rule: InFlight) -> dict[str, float]:
        calls = self._leases.setdefault(rule, {})
        now = self._clock()
        for call in [call for call, ends in calls.items() if ends <= now]:
            del calls[call]
        return calls


def never(charge: Charge) -> str:
    """What is said of a call that no waiting helps."""
    return f"needs {charge.amount} of {charge.rule.name}, which never has so much"


def _used_up(rule: Rule, share: int, wait_s: float) -> NoRoom:
    detail = f"this worker's share of {rule.name}, {share}, is used up"
    return NoRoom(f"{detail} while Redis is away", wait_s)
