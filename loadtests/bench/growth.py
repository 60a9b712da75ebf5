"""What more of everything does to ours: workers, size of a job, jobs to a request."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import aiohttp

from loadtests.bench.client import prompts
from loadtests.bench.contest import started
from loadtests.bench.drains import drain, until_finished
from loadtests.bench.figures import spread_ms
from loadtests.bench.systems import Ours, bench_site
from loadtests.site import Site

SLOTS = 200
WORKERS = (1, 2, 4)
SIZES = (1_000, 10_000, 100_000)
BATCH = 1_000
"""Jobs to a batch: the most that one may have."""


async def growth(folder: Path, *, jobs: int) -> dict[str, Any]:
    """Each kind of growth by itself, all on one site."""
    site = bench_site(folder)
    try:
        return {
            "batches": await _batches(site, max(1, jobs // BATCH)),
            "workers": await _workers(site, jobs),
            "sizes": await _sizes(site, jobs // 4),
        }
    finally:
        site.stop()


async def post_batches(ours: Ours, batches: int, *, stream: bool = False) -> list[float]:
    """Post full batches, one after the other; the seconds each took."""
    took = []
    texts = iter(prompts(batches * BATCH, seed=3))
    async with aiohttp.ClientSession(ours.url, headers=ours.headers) as client:
        for _ in range(batches):
            bodies = [ours.body(next(texts), stream=stream) for _ in range(BATCH)]
            begun = time.monotonic()
            async with client.post("/v1/batches", json={"jobs": bodies}) as answer:
                assert answer.status == 202, await answer.text()
            took.append(time.monotonic() - begun)
    return took


async def _batches(site: Site, batches: int) -> dict[str, Any]:
    ours = Ours(site)
    async with started(ours, SLOTS):
        took = await post_batches(ours, batches)
        await until_finished(ours, batches * BATCH)
    rate = round(batches * BATCH / sum(took), 1)
    print(f"in batches: {rate} submits/s", flush=True)
    return {
        "jobs": batches * BATCH,
        "submits_per_s": rate,
        "batch_ms": spread_ms(took),
    }


async def _workers(site: Site, jobs: int) -> list[dict[str, Any]]:
    found = []
    for count in WORKERS:
        ours = Ours(site, workers=count)
        async with started(ours, SLOTS):
            one = await drain(ours, site, jobs, stream=False)
        found.append({"workers": count, **one})
        print(f"{count} workers: {one['jobs_per_s']} jobs/s", flush=True)
    return found


async def _sizes(site: Site, jobs: int) -> list[dict[str, Any]]:
    found = []
    ours = Ours(site)
    async with started(ours, SLOTS):
        for size in SIZES:
            one = await drain(ours, site, jobs, stream=False, size=size)
            found.append({"bytes": size, **one})
            print(f"{size} bytes: {one['jobs_per_s']} jobs/s", flush=True)
    return found
