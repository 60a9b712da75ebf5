"""Publishing by itself: hints into a pool's quorum queue, each one confirmed."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from llmgine_workers import clock
from llmgine_workers.broker import messages, open_broker
from llmgine_workers.broker.declare import declare
from llmgine_workers.local import PrivateRabbit

ROUNDS = 5
TRIES = 10
"""Until the broker's connection stands; each waits for some seconds."""

AT_ONCE = 500
"""Hints to one call of `publish`; all calls of a round are open together."""


async def hints(folder: Path, *, count: int) -> dict[str, Any]:
    """Some rounds of `count` hints on one connection."""
    rabbit = PrivateRabbit(folder / "rabbit")
    rabbit.start()
    try:
        await declare(rabbit.url, "llmgine", ["openai"])
        rounds = await _rounds(rabbit.url, count)
    finally:
        rabbit.stop()
    rates = [count / took for took, _ in rounds]
    cpu = [1e6 * used / count for _, used in rounds]
    print(f"hints: {statistics.median(rates):.0f} confirmed/s", flush=True)
    return {
        "count": count,
        "per_s": round(statistics.median(rates)),
        "per_s_of_each_round": [round(rate) for rate in rates],
        "cpu_us_each": round(statistics.median(cpu), 1),
    }


async def _rounds(url: str, count: int) -> list[tuple[float, float]]:
    broker, found = open_broker(url, "llmgine"), []
    some = [messages.hint(clock.uuid7(), "answer", 0, "ask") for _ in range(count)]
    try:
        for _ in range(TRIES):
            if not await broker.publish("llmgine.openai", some[:1]):
                break  # connected, and confirmed
        for _ in range(ROUNDS):
            begun, cpu = time.monotonic(), time.process_time()
            unconfirmed = await asyncio.gather(
                *(
                    broker.publish("llmgine.openai", some[at : at + AT_ONCE])
                    for at in range(0, count, AT_ONCE)
                )
            )
            assert not any(unconfirmed)
            found.append((time.monotonic() - begun, time.process_time() - cpu))
    finally:
        await broker.close()
    return found
