"""Workers SIGKILLed under load: what they called may be called again, nothing else."""

from __future__ import annotations

import argparse
import asyncio
import random

from loadtests import witness
from loadtests.drive import Posted, post, until
from loadtests.faults.run import main
from loadtests.site import Site

KILLS = 3
OPEN_CALLS = 100
"""Calls open at each kill, at least."""


async def scenario(site: Site, arguments: argparse.Namespace) -> Posted:
    """Kill a random worker when enough calls are open, and start another."""
    posting = asyncio.create_task(
        post(site, arguments.jobs, per_s=arguments.rate, seed=arguments.seed)
    )
    rng = random.Random(arguments.seed)
    for kill in range(KILLS):
        await until(lambda: _busy(site), f"{OPEN_CALLS} calls open", within_s=120)
        workers = [n for n in site.processes if n.startswith(("openai-", "anthropic-"))]
        victim = rng.choice(sorted(workers))
        open_calls = await witness.calls_open(site)
        site.kill(victim)
        print(f"killed {victim} with {open_calls} calls open in all")
        site.spawn(
            f"{victim.partition('-')[0]}-again-{kill}", "worker", victim.split("-")[0]
        )
        await asyncio.sleep(5)
    return await posting


async def _busy(site: Site) -> bool:
    return await witness.calls_open(site) >= OPEN_CALLS


if __name__ == "__main__":
    main("workers killed", scenario, jobs=2000)
