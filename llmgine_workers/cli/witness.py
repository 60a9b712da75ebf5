"""The simulator's log as a witness: what was really called, and what that costs.

It knows nothing of our ledger and price book: tokens come from the simulator, prices
straight from `genai-prices`, so a mistake of ours cannot confirm itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

import httpx2

_MICRO = Decimal(1_000_000)
Call = dict[str, Any]


class Witness:
    """A running simulator, asked over HTTP."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def calls(self, job: str) -> list[Call]:
        """Every call of a job in order of arrival."""
        answer = await self._client.get("/_sim/calls", params={"job": job})
        answer.raise_for_status()
        found: list[Call] = answer.json()["calls"]
        return found

    async def break_step(self, step: str, kind: str) -> None:
        """From now on every call of steps with this name fails."""
        fault = {"kind": kind, "match": {"step": step}}
        (await self._client.post("/_sim/faults", json=fault)).raise_for_status()

    async def heal(self) -> None:
        """No fault any more."""
        (await self._client.delete("/_sim/faults")).raise_for_status()


def completed(calls: Sequence[Call]) -> list[Call]:
    """The calls that were answered whole."""
    return [call for call in calls if call["ended"] == "completed"]


def cost_usd(calls: Sequence[Call]) -> Decimal:
    """Dollars of completed calls; each is billed in whole micro-dollars, rounded up."""
    return sum((_cost(call) for call in completed(calls)), Decimal(0))


def _cost(call: Call) -> Decimal:
    from genai_prices import Usage, calc_price

    usage = Usage(
        input_tokens=call["input_tokens"],
        cache_read_tokens=call["cached_input_tokens"],
        output_tokens=call["output_tokens"],
    )
    price = calc_price(usage, call["model"], provider_id=call["wire"]).total_price
    return (price * _MICRO).to_integral_value(ROUND_CEILING) / _MICRO
