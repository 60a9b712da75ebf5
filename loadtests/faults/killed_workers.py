"""Workers SIGKILLed under load: what they called may be called again, nothing else."""

from __future__ import annotations

import argparse
import asyncio
import random
from functools import partial

from loadtests import witness
from loadtests.drive import Posted, post, until
from loadtests.faults.run import main
from loadtests.site import Site

KILLS = 3
OPEN_CALLS = 100
"""Calls open at each kill, at least."""

SETTLED_S = 3.0
"""A successor has loaded its SDK and taken its share of the hints by then."""


async def scenario(site: Site, arguments: argparse.Namespace) -> Posted:
    """Kill a random worker when enough calls are open; its successor is up by then.

    A starting worker takes a core for seconds, and answers that wait behind it for
    their commit would be lost with the kill beside those that were cut.
    """
    posting = asyncio.create_task(
        post(site, arguments.jobs, per_s=arguments.rate, seed=arguments.seed)
    )
    rng = random.Random(arguments.seed)
    for kill in range(KILLS):
        workers = [n for n in site.processes if n.startswith(("openai-", "anthropic-"))]
        victim = rng.choice(sorted(workers))
        pool = victim.partition("-")[0]
        live = await _live(site)
        site.spawn(f"{pool}-again-{kill}", "worker", pool)
        await until(partial(_more, site, live), "a successor", within_s=60)
        await asyncio.sleep(SETTLED_S)
        await until(partial(_busy, site), f"{OPEN_CALLS} calls open", within_s=120)
        open_calls = await witness.calls_open(site)
        site.kill(victim)
        print(f"killed {victim} with {open_calls} calls open in all")
    return await posting


async def _live(site: Site) -> int:
    rows = await site.query("select count(*) from workers where beat_no > 1")
    return int(rows[0][0])


async def _more(site: Site, than: int) -> bool:
    return await _live(site) > than


async def _busy(site: Site) -> bool:
    return await witness.calls_open(site) >= OPEN_CALLS


if __name__ == "__main__":
    main("workers killed", scenario, jobs=2000)
