"""PostgreSQL stopped 60 s with 300 calls in flight: every result is still committed."""

from __future__ import annotations

import argparse
import asyncio

from loadtests import witness
from loadtests.drive import Posted, post, until
from loadtests.faults.run import main
from loadtests.site import Site

AWAY_S = 60.0
OPEN_CALLS = 300


async def scenario(site: Site, arguments: argparse.Namespace) -> Posted:
    """Stop it when enough calls are open; empty Redis once it is back."""
    posted = await post(site, arguments.jobs, per_s=arguments.rate, seed=arguments.seed)

    async def busy() -> bool:
        return await witness.calls_open(site) >= OPEN_CALLS

    await until(busy, f"{OPEN_CALLS} calls open", within_s=120, every_s=0.05)
    print(f"stopped with {await witness.calls_open(site)} calls open")
    await asyncio.to_thread(site.postgres.stop)
    await asyncio.sleep(AWAY_S)
    await asyncio.to_thread(site.postgres.start)
    await asyncio.sleep(2)
    await asyncio.to_thread(site.redis.flush)
    print("ledger back, Redis emptied")
    return posted


if __name__ == "__main__":
    main("ledger away", scenario, jobs=1000)
