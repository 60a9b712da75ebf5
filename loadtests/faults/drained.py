"""SIGTERM with 100 calls in flight: all finish and are acknowledged."""

from __future__ import annotations

import argparse
import asyncio
import signal

from loadtests import witness
from loadtests.drive import Posted, post, until
from loadtests.faults.run import main
from loadtests.site import Site

OPEN_CALLS = 100


async def scenario(site: Site, arguments: argparse.Namespace) -> Posted:
    """Ask every worker to end, see it end well, and start others."""
    posted = await post(site, arguments.jobs, per_s=arguments.rate, seed=arguments.seed)

    async def busy() -> bool:
        return await witness.calls_open(site) >= OPEN_CALLS

    await until(busy, f"{OPEN_CALLS} calls open", within_s=120, every_s=0.05)
    leaving = [n for n in site.processes if n.startswith(("openai-", "anthropic-"))]
    print(f"SIGTERM with {await witness.calls_open(site)} calls open")
    for name in leaving:
        site.signal(name, signal.SIGTERM)
    for name in leaving:
        status = await asyncio.to_thread(site.processes.pop(name).wait, 90)
        print(f"{name} ended with {status}")
    left = await witness.calls_open(site)
    print(f"calls open after the last worker: {left}")
    for name in leaving:
        pool, _, number = name.partition("-")
        site.spawn(f"{pool}-next-{number}", "worker", pool)
    if left:
        raise AssertionError("a worker left its calls behind")
    return posted


if __name__ == "__main__":
    main("drained", scenario, jobs=600)
