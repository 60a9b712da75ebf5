"""A process that competes for a window: it prints what it got, as [[ms, units], ...]."""

from __future__ import annotations

import asyncio
import json
import random
import sys

from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.ephemeral.gate import Refused
from llmgine_workers.ephemeral.rules import Charge, Window
from tests.ephemeral.asking import Door

LASTS_S = 0.7


async def compete(
    url: str, prefix: str, limit: int, window_s: float, seed: int
) -> list[tuple[int, int]]:
    """Eight callers reserve 1-5 units at random moments; some give them back."""
    ephemeral = Ephemeral(url, prefix, answer_s=5.0)
    door = Door(ephemeral)
    rule = Window("a window", "b", limit, window_s)
    chance = random.Random(seed)  # noqa: S311
    taken: list[tuple[int, int]] = []
    loop = asyncio.get_running_loop()
    until = loop.time() + LASTS_S

    async def reserve() -> None:
        while loop.time() < until:
            units = chance.randint(1, 5)
            got = await door.reserve(Charge(rule, units))
            if isinstance(got, Refused):
                await asyncio.sleep(chance.random() * 0.02)
            elif chance.random() < 0.2:
                await door.refund(got)
            else:
                taken.append((got.at_ms, units))
                await asyncio.sleep(chance.random() * 0.01)

    await asyncio.gather(*(reserve() for _ in range(8)))
    await ephemeral.close()
    return taken


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(compete(*json.loads(sys.argv[1])))))
