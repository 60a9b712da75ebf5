"""Submit, release and claim in front of a backlog of any length: they must stay flat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.bench import meter
from loadtests.bench.client import generator, prompts
from loadtests.bench.figures import spread_ms
from loadtests.bench.growth import BATCH, SLOTS, post_batches
from loadtests.bench.systems import Ours, bench_site, store_pids
from loadtests.site import Site

SIZES = (1_000, 10_000, 100_000)
POSTS = 100
FIRST, MEASURED = 200, 600
"""Jobs that a fresh worker ends before the clock starts, and until it stops."""

AT_ONCE = ("--latency", "0")


async def backlog(folder: Path, *, sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """One backlog after the other, each in an otherwise empty ledger."""
    site = bench_site(folder, simulator=AT_ONCE)
    try:
        found = []
        for size in sizes:
            found.append({"backlog": size, **await _before(site, size)})
            print(f"backlog {size}: {found[-1]}", flush=True)
            await site.query("truncate jobs, steps, payloads, attempts, batches")
        return {"backlogs": found}
    finally:
        site.stop()


async def _before(site: Site, size: int) -> dict[str, Any]:
    """Fill it up without a worker, then let one work for a short while."""
    ours = Ours(site, workers=0)
    await ours.start(SLOTS)
    try:
        batches = await post_batches(ours, size // BATCH)
        async with generator(ours) as load:
            posts = await load.at_rate(prompts(POSTS, seed=5), per_s=25)
        site.spawn("openai-0", "worker", "openai", "--slots", str(SLOTS))
        total = size + POSTS
        await _until_left(ours, total - FIRST)
        roots = {**ours.pids, "PostgreSQL": store_pids(site)["PostgreSQL"]}
        cpu, begun, left = meter.cpu_s(roots), time.monotonic(), await ours.unfinished()
        await _until_left(ours, left - MEASURED)
        ended, took = left - await ours.unfinished(), time.monotonic() - begun
        cpu = meter.spent(cpu, meter.cpu_s(roots))
    finally:
        await ours.stop()
    return {
        "batched_submits_per_s": round(BATCH / min(batches[-3:]), 1),
        "post_ms": spread_ms(posts.took_s),
        "ended_per_s": round(ended / took, 1),
        "cpu_ms_by_process": {k: round(1000 * v / ended, 2) for k, v in cpu.items()},
    }


async def _until_left(ours: Ours, count: int, within_s: float = 90) -> None:
    deadline = time.monotonic() + within_s
    while (left := await ours.unfinished()) > max(0, count):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{left} jobs left, {count} expected")
        await asyncio.sleep(0.05)
