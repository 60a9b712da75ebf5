"""What the limits still admit, spent in thought while the release chooses its steps."""

from __future__ import annotations

from collections.abc import Sequence

from llmgine_workers.ledger.fairness import LAST_CLASS, Head
from llmgine_workers.resilience.admission import Admission
from llmgine_workers.resilience.rooms import Rooms
from llmgine_workers.resilience.rules import Demand

BATCH_LEAVES = 0.25
"""The share of every limit that `batch` leaves to classes that people wait for."""


class RoomGate:
    """The gate of `ledger/fairness.py`, by what every limit has left at this moment.

    A step it takes will most likely be admitted when its worker asks, so that a
    refusal there is the exception.
    """

    def __init__(
        self, admission: Admission, pool: str, beside: Sequence[str] = ()
    ) -> None:
        self.beside = beside
        self._admission = admission
        self._pool = pool
        self._rooms: Rooms | None = None

    async def look(self, tenants: Sequence[str]) -> None:
        """Learn what there is for these tenants; what was taken before stays taken."""
        found = await self._admission.rooms(self._pool, tenants)
        if self._rooms is None:
            self._rooms = found
        else:
            self._rooms.learn(found)

    def take(self, head: Head) -> bool:
        """Whether a call of this step has room, which is taken then, or has to ask for it
        in person."""
        if head.model is None or self._rooms is None:
            return True  # a tool falls under no limit
        demand = Demand(
            model=head.model,
            tenant=head.tenant,
            input_tokens=head.tokens_in,
            output_tokens=head.tokens_out,
            step=f"{head.job}:{head.path}",
        )
        leave = BATCH_LEAVES if head.priority == LAST_CLASS else 0.0
        has_room = self._rooms.take(demand, leave=leave)
        return has_room or self._rooms.has_to_ask(demand)
