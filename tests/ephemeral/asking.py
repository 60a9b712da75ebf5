"""Ask the gate for one call's charges, as the worker does, and give them back."""

from __future__ import annotations

from uuid import uuid4

from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.ephemeral.gate import Asked, Closed, Gate, Lost, Refused, Reservation
from llmgine_workers.ephemeral.rules import Charge, Rule
from llmgine_workers.ephemeral.windows import Windows

PROVIDER, MODEL = "openai", "gpt-5-mini"


def asked(
    *charges: Charge, step: str = "", lease_s: float = 60.0, model: str = MODEL
) -> Asked:
    """One call of a model; a step of its own unless it is named."""
    token = uuid4().hex
    return Asked(PROVIDER, model, token, step or token, token, lease_s, charges)


class Door:
    """The gate and the counters behind it, of one process."""

    def __init__(self, ephemeral: Ephemeral) -> None:
        self.gate = Gate(ephemeral)
        self.windows = Windows(ephemeral)

    async def ask(
        self, *charges: Charge, step: str = "", lease_s: float = 60.0
    ) -> Reservation | Closed | Refused | Lost:
        """One call with these charges."""
        one = asked(*charges, step=step, lease_s=lease_s)
        return await self.gate.admit(one, probe_lease_s=30)

    async def reserve(self, *charges: Charge, step: str = "") -> Reservation | Refused:
        """The same where nothing but a limit can be in the way."""
        found = await self.ask(*charges, step=step)
        assert isinstance(found, Reservation | Refused), found
        return found

    async def reserved(self, *charges: Charge, step: str = "") -> Reservation:
        """The same where there is room."""
        found = await self.ask(*charges, step=step)
        assert isinstance(found, Reservation), found
        return found

    async def refused(self, *charges: Charge, step: str = "") -> Refused:
        """The same where there is none."""
        found = await self.ask(*charges, step=step)
        assert isinstance(found, Refused), found
        return found

    async def refund(self, reserved: Reservation) -> None:
        """The call was not made."""
        await self.windows.settle(reserved, [0] * len(reserved.charges))

    async def left(self, *rules: Rule) -> list[int]:
        """Units that each rule has left."""
        return [found.units for found in await self.windows.left(rules)]
