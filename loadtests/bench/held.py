"""Thousands of slow streams in one worker process: memory, loop lag, heartbeats."""

from __future__ import annotations

import asyncio
import math
import os
import time
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from loadtests.bench import meter
from loadtests.bench.figures import calls_since, percentile
from loadtests.bench.growth import BATCH, post_batches
from loadtests.bench.systems import Ours, bench_site
from loadtests.bench.watched_worker import LAG_FILE
from loadtests.site import Site

CHUNKS_PER_S = 5
SAMPLE_S = 0.1
FILLED_S = 75
"""Until all streams are open, at most; none may have ended by then."""


async def held(folder: Path, *, streams: int, seconds: float) -> dict[str, Any]:
    """Fill one worker with streams and watch it for a while; all must end whole."""
    chunks = math.ceil((seconds + FILLED_S) * CHUNKS_PER_S)
    pace = ("--first-token", "0.2", "--chunk-rate", str(CHUNKS_PER_S))
    length = ("--chunks", str(chunks), "--answer-tokens", str(chunks))
    site = bench_site(folder, simulator=(*pace, *length))
    lag = folder / "lag.txt"
    os.environ[LAG_FILE] = str(lag)
    ours = Ours(site, workers=0)
    try:
        await ours.start(streams)
        slots = ("--slots", str(streams + 100))
        site.spawn(
            "openai-0",
            "worker",
            "openai",
            *slots,
            module="loadtests.bench.watched_worker",
        )
        await asyncio.to_thread(site.until_ready, 1)
        await post_batches(ours, math.ceil(streams / BATCH), stream=True)
        await _until_open(site, streams, within_s=FILLED_S)
        found = await _watch(site, ours, lag, seconds)
        await _until_open(site, 0, within_s=chunks / CHUNKS_PER_S + 60)
        calls = calls_since(site.calls, 0)
        whole = sum(c["ended"] == "completed" for c in calls)
        return {"streams": streams, "ended_whole": whole, "chunks": chunks, **found}
    finally:
        await ours.stop()
        site.stop()


async def _watch(site: Site, ours: Ours, lag: Path, seconds: float) -> dict[str, Any]:
    worker = {"worker": ours.pids["openai-0"]}
    before, cpu, begun = len(_lags(lag)), meter.cpu_s(worker), time.monotonic()
    async with meter.PeakMemory(worker) as memory:
        gap = await _longest_gap(site, seconds)
    cpu, took = meter.spent(cpu, meter.cpu_s(worker)), time.monotonic() - begun
    lags = _lags(lag)[before:]
    return {
        "seconds": round(took, 1),
        "open_at_once": await _open(site),
        "rss_mb": round(memory.mb, 1),
        "cores": round(cpu["worker"] / took, 2),
        "lag_samples": len(lags),
        "lag_p50_ms": round(1000 * percentile(lags, 50), 1),
        "lag_p99_ms": round(1000 * percentile(lags, 99), 1),
        "lag_max_ms": round(1000 * max(lags), 1),
        "heartbeat_gap_s": round(gap, 2),
    }


async def _longest_gap(site: Site, seconds: float) -> float:
    """Between two beats that the ledger has seen."""
    connection = await asyncpg.connect(site.postgres.url)
    try:
        longest, beat, since = 0.0, -1, time.monotonic()
        until = since + seconds
        while (now := time.monotonic()) < until:
            seen = await connection.fetchval("select max(beat_no) from llmgine.workers")
            if seen != beat:
                longest = max(longest, now - since)
                beat, since = seen, now
            await asyncio.sleep(SAMPLE_S)
        return max(longest, time.monotonic() - since)
    finally:
        await connection.close()


def _lags(path: Path) -> list[float]:
    return [float(line) for line in path.read_text().split()]


async def _open(site: Site) -> int:
    summary = f"{site.simulator}/_sim/summary"
    async with aiohttp.request("GET", summary) as answer:
        return int((await answer.json())["open"])


async def _until_open(site: Site, count: int, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (seen := await _open(site)) != count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{seen} streams open, not {count}")
        await asyncio.sleep(0.5)
