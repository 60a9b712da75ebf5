"""What the limits have left, as a copy that can be spent in thought before a release."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llmgine_workers.ephemeral.gate import LARGE_SHARE
from llmgine_workers.ephemeral.rules import Charge, Rule, Window
from llmgine_workers.ephemeral.windows import Left
from llmgine_workers.resilience.rules import Demand, Rules


@dataclass
class Rooms:
    """Room for calls of one provider at one moment; nothing of it is reserved.

    `shut` are the models whose breaker is open, with the seconds until a probe may go;
    `is_shut`: the provider asked for a pause, and nothing has room.
    """

    rules: Rules
    left: dict[Rule, Left]
    shut: dict[str, float] = field(default_factory=dict)
    is_shut: bool = False
    _taken: dict[Rule, int] = field(default_factory=dict)

    def learn(self, other: Rooms) -> None:
        """Add the rules that were not looked at before; what was taken stays taken."""
        for rule, left in other.left.items():
            self.left.setdefault(rule, left)

    def take(self, demand: Demand, *, leave: float = 0.0) -> bool:
        """Whether a call has room beside all that were taken before it; takes it.

        It leaves that share of each limit, unless it is so large that it never could.
        """
        if self._is_closed(demand):
            return False
        charges = self.rules.charges(demand)
        for charge in charges:
            left, limit = self._left(charge.rule, demand.step), charge.rule.limit
            kept = min(math.ceil(limit * leave), limit - charge.amount)
            if left is not None and charge.amount > left - max(0, kept):
                return False
        for charge in charges:
            taken = self._taken.get(charge.rule, 0)
            self._taken[charge.rule] = taken + charge.amount
        if demand.model in self.shut:
            self.shut[demand.model] = float("inf")  # one probe, and no other call
        return True

    def has_to_ask(self, demand: Demand) -> bool:
        """Whether a call that has no room goes all the same, for its worker's refusal.

        One that never fits fails by it; a large one claims the next room by it: one of
        those that wait, while nobody has a claim.
        """
        if self._is_closed(demand):
            return False
        if self.rules.never_fits(demand):
            return True
        for charge in self.rules.charges(demand):
            found = self.left.get(charge.rule)
            if found and _is_claimable(charge, found):
                claim = demand.step, charge.amount
                self.left[charge.rule] = replace(found, claim=claim)
                return True
        return False

    def _is_closed(self, demand: Demand) -> bool:
        return self.is_shut or self.shut.get(demand.model, 0.0) > 0

    def _left(self, rule: Rule, step: str) -> int | None:
        found = self.left.get(rule)
        if found is None:
            return None
        held = found.claim[1] if found.claim and found.claim[0] != step else 0
        return found.units - held - self._taken.get(rule, 0)


def _is_claimable(charge: Charge, found: Left) -> bool:
    """Only of windows: nobody knows when a call in flight will end."""
    is_large = charge.amount > charge.rule.limit * LARGE_SHARE
    has_no_room = found.units < charge.amount
    windowed = isinstance(charge.rule, Window)
    return windowed and is_large and has_no_room and not found.claim


def calls_that_fit(left: Mapping[Rule, Left], at_most: int) -> int:
    """How many calls of a usual size fit; at least one if a claim can be served."""
    rooms = [at_most]
    for found in left.values():
        held = found.claim[1] if found.claim else 0
        calls = max(0, found.units - held) // found.mean
        rooms.append(max(calls, int(0 < held <= found.units)))
    return min(rooms)
