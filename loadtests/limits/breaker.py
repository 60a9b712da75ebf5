"""A provider that fails: how soon its breaker opens, who probes, when it recovers.

All calls of one provider answer 503 for a minute while every slot is busy; the other
provider goes on, and a trickle of calls to it alone tells whether it notices.
`--share 0.5` fails half of the calls instead, from the start. Exit 1 unless it held.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from loadtests import witness
from loadtests.drive import Posted, post, until
from loadtests.fairness import p95, trickle
from loadtests.site import Site, running

OPEN_WITHIN_S = 3.0
INTERVAL_S = 5.0
"""Between probes, at least: the first back-off."""
RECOVERED_WITHIN_S = 20.0
OPEN_WITHIN_CALLS = 40
BEFORE_S = 15.0
"""Of a healthy provider, before it fails: what the other one is compared with."""
OTHER = "anthropic/claude-sonnet-4-5"
OTHER_PER_S = 4.0
OTHER_FACTOR = 1.5
"""How much longer the other provider's p95 may be; so much is the machine's noise."""


def main() -> None:
    """Run it; exit 1 unless the promise held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="of the outage")
    parser.add_argument("--share", type=float, default=1.0, help="of calls that fail")
    parser.add_argument("--jobs", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=40.0, help="posts per second")
    parser.add_argument("--workers", type=int, default=2, help="per provider")
    parser.add_argument("--slots", type=int, default=200, help="of each worker")
    arguments = parser.parse_args()
    pools = [p for p in ("openai", "anthropic") for _ in range(arguments.workers)]
    with tempfile.TemporaryDirectory(prefix="llmgine-") as folder:
        site_of = running(
            Path(folder),
            workers=pools,
            slots=arguments.slots,
            simulator=("--latency", "1.0"),
            settings="[steps]\nmax_attempts = 20\n",
        )
        with site_of as site:
            held = asyncio.run(_run(site, arguments))
    sys.exit(0 if held else 1)


async def _run(site: Site, arguments: argparse.Namespace) -> bool:
    posted = Posted()
    posting = asyncio.create_task(
        post(site, arguments.jobs, per_s=arguments.rate, seed=1, posted=posted)
    )
    is_whole = arguments.share == 1
    before = await _others(site, BEFORE_S) if is_whole else []
    broken_at = time.time()
    await _fault(site, arguments.share)
    beside = await _others(site, 60 * arguments.minutes)
    await _lift(site)
    well_at = time.time()
    await posting
    await until(lambda: witness.all_ended(site, posted), "all jobs ended", within_s=300)
    (failed,) = await site.query("select count(*) from jobs where state <> 'succeeded'")
    print(f"jobs not succeeded {failed[0]} of {len(posted.jobs)}")
    told = _calls(site)
    during = [c for c in told if broken_at <= c["started_at"] < well_at]
    burst, probes = _burst_and_probes(during)
    held = not failed[0] and len(posted.jobs) == arguments.jobs
    if is_whole:
        held &= _opened_soon(burst, broken_at) and _probed_alone(probes)
        held &= _came_back(told, well_at) and _left_alone(before, beside)
    else:
        print(f"open after {len(burst)} calls")
        held &= len(burst) <= OPEN_WITHIN_CALLS
    print("HELD" if held else "NOT HELD")
    return held


async def _others(site: Site, seconds: float) -> list[float]:
    return await trickle(
        site, site.key, int(OTHER_PER_S * seconds), OTHER_PER_S, model=OTHER
    )


def _calls(site: Site) -> list[dict[str, Any]]:
    calls = [c for c in witness.read_calls(site) if c["wire"] == "openai"]
    return sorted(calls, key=lambda c: c["started_at"])


def _opened_soon(burst: list[dict[str, Any]], broken_at: float) -> bool:
    opened_s = burst[-1]["started_at"] - broken_at
    print(f"open after {opened_s:.1f} s and {len(burst)} calls")
    return bool(opened_s <= OPEN_WITHIN_S)


def _probed_alone(probes: list[dict[str, Any]]) -> bool:
    gaps = [b["started_at"] - a["started_at"] for a, b in pairwise(probes)]
    shown = ", ".join(f"{gap:.1f}" for gap in gaps)
    print(f"{len(probes)} calls later in the outage, {shown} s apart")
    return min(gaps, default=INTERVAL_S) >= INTERVAL_S - 0.5


def _came_back(calls: list[dict[str, Any]], well_at: float) -> bool:
    after = [c for c in calls if c["started_at"] >= well_at and c["status"] == 200]
    back_s = after[0]["started_at"] - well_at if after else float("inf")
    print(f"back after {back_s:.1f} s")
    return back_s <= RECOVERED_WITHIN_S


def _left_alone(before: list[float], beside: list[float]) -> bool:
    print(
        f"the other provider's p95 {p95(before):.2f} s before, {p95(beside):.2f} s "
        f"beside it: {p95(beside) / p95(before):.2f} times"
    )
    return p95(beside) <= OTHER_FACTOR * p95(before)


def _burst_and_probes(
    calls: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The calls before the first silence of the length of a back-off, and the rest."""
    for n in range(1, len(calls)):
        silence = calls[n]["started_at"] - calls[n - 1]["started_at"]
        if silence >= INTERVAL_S - 0.5:
            return calls[:n], calls[n:]
    return calls, []


async def _fault(site: Site, share: float) -> None:
    fault = {"kind": "503", "rate": share, "match": {"wire": "openai"}}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{site.simulator}/_sim/faults", json=fault) as answer,
    ):
        assert answer.status == 201, await answer.text()


async def _lift(site: Site) -> None:
    async with (
        aiohttp.ClientSession() as client,
        client.delete(f"{site.simulator}/_sim/faults") as answer,
    ):
        assert answer.status == 200


if __name__ == "__main__":
    random.seed(1)
    main()
