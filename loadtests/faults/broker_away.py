"""RabbitMQ stopped 30 s while posting, then purged and replaced by an empty one."""

from __future__ import annotations

import argparse
import asyncio
import time

from llmgine_workers.broker import declare
from loadtests.drive import Posted, post
from loadtests.faults.run import main
from loadtests.site import POOLS, Site

AWAY_S = 30.0


async def scenario(site: Site, arguments: argparse.Namespace) -> Posted:
    """Every POST must be answered 202, and fast, while the broker is away."""
    posted = Posted()
    begun = time.monotonic()
    posting = asyncio.create_task(
        post(
            site, arguments.jobs, per_s=arguments.rate, seed=arguments.seed, posted=posted
        )
    )
    await asyncio.sleep(3)
    gone = time.monotonic() - begun
    await asyncio.to_thread(site.rabbit.stop)
    await asyncio.sleep(AWAY_S)
    back = time.monotonic() - begun
    while_away = Posted(
        took_s=[one for one in posted.took_s if gone + 2 <= one[0] < back]
    )
    print(
        f"away {AWAY_S:g} s: {len(while_away.took_s)} posts, "
        f"p99 {while_away.p99_ms():.0f} ms, refused {len(posted.refused)}"
    )
    await asyncio.to_thread(site.rabbit.start)
    await asyncio.sleep(5)
    for pool in POOLS:
        site.rabbit.ctl("purge_queue", f"llmgine.{pool}")
    await asyncio.sleep(3)
    await asyncio.to_thread(site.rabbit.fresh)
    await declare.declare(site.rabbit.url, "llmgine", POOLS)
    print("purged, then replaced by an empty broker")
    await posting
    return posted


if __name__ == "__main__":
    main("broker away", scenario, jobs=2000)
