"""What every fault run shares: its arguments, its site, its verdict and exit status."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from loadtests import witness
from loadtests.drive import Posted, until
from loadtests.site import Site, running

LATENCY = "lognormal:1.1,1.9,0.2,2.0"
"""Seconds: median, 95th percentile, least and most."""

Scenario = Callable[[Site, argparse.Namespace], Awaitable[Posted]]


def main(title: str, scenario: Scenario, *, jobs: int, workers: int = 2) -> None:
    """Run one scenario; exit 1 unless the promise held."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--jobs", type=int, default=jobs)
    parser.add_argument("--rate", type=float, default=100.0, help="posts per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slots", type=int, default=200)
    parser.add_argument("--workers", type=int, default=workers, help="per provider")
    parser.add_argument("--folder", type=Path, help="kept; else a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmgine-") as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(0 if _run(title, scenario, arguments, folder) else 1)


def _run(
    title: str, scenario: Scenario, arguments: argparse.Namespace, folder: Path
) -> bool:
    pools = [p for p in ("openai", "anthropic") for _ in range(arguments.workers)]
    simulator = ("--seed", str(arguments.seed), "--latency", LATENCY)
    print(f"{title}: {arguments.jobs} jobs, seed {arguments.seed}")
    site_of = running(folder, workers=pools, slots=arguments.slots, simulator=simulator)
    with site_of as site:
        return asyncio.run(_judged(site, scenario, arguments))


async def _judged(site: Site, scenario: Scenario, arguments: argparse.Namespace) -> bool:
    begun = time.monotonic()
    posted = await scenario(site, arguments)
    await until(lambda: witness.all_ended(site, posted), "all jobs ended", within_s=300)
    took = time.monotonic() - begun
    verdict = await witness.judge(site, posted)
    print(f"refused {len(posted.refused)}, POST p99 {posted.p99_ms():.0f} ms")
    print(f"took {took:.1f} s, {len(posted.jobs) / took:.1f} jobs/s")
    print(f"CPU seconds {site.cpu_seconds()}")
    print(verdict)
    return verdict.holds
