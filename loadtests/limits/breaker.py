"""A provider that fails: how soon its breaker opens, who probes, when it recovers.

All calls of one provider answer 503 for a minute while every slot is busy; the other
provider goes on. `--share 0.5` fails half of the calls instead, from the start.
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
from loadtests.site import Site, running

OPEN_WITHIN_S = 3.0
INTERVAL_S = 5.0
"""Between probes, at least: the first back-off."""
RECOVERED_WITHIN_S = 20.0
OPEN_WITHIN_CALLS = 40


def main() -> None:
    """Run it; exit 1 unless the promise held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="of the outage")
    parser.add_argument("--share", type=float, default=1.0, help="of calls that fail")
    parser.add_argument("--jobs", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=40.0, help="posts per second")
    parser.add_argument("--workers", type=int, default=2, help="per provider")
    arguments = parser.parse_args()
    pools = [p for p in ("openai", "anthropic") for _ in range(arguments.workers)]
    with tempfile.TemporaryDirectory(prefix="llmgine-") as folder:
        site_of = running(
            Path(folder), workers=pools, slots=200, simulator=("--latency", "1.0"),
            settings="[steps]\nmax_attempts = 20\n",
        )  # fmt: skip
        with site_of as site:
            held = asyncio.run(_run(site, arguments))
    sys.exit(0 if held else 1)


async def _run(site: Site, arguments: argparse.Namespace) -> bool:
    posted = Posted()
    posting = asyncio.create_task(
        post(site, arguments.jobs, per_s=arguments.rate, seed=1, posted=posted)
    )
    await asyncio.sleep(10 if arguments.share == 1 else 0)
    broken_at = time.time()
    await _fault(site, arguments.share)
    await asyncio.sleep(60 * arguments.minutes)
    await _lift(site)
    well_at = time.time()
    await posting
    await until(lambda: witness.all_ended(site, posted), "all jobs ended", within_s=300)
    return await _verdict(site, posted, broken_at, well_at, arguments.share)


async def _verdict(
    site: Site, posted: Posted, broken_at: float, well_at: float, share: float
) -> bool:
    calls = sorted(
        (c for c in witness.read_calls(site) if c["wire"] == "openai"),
        key=lambda c: c["started_at"],
    )
    during = [c for c in calls if broken_at <= c["started_at"] < well_at]
    burst, probes = _burst_and_probes(during)
    gaps = [b["started_at"] - a["started_at"] for a, b in pairwise(probes)]
    opened_s = burst[-1]["started_at"] - broken_at
    after = [c for c in calls if c["started_at"] >= well_at and c["status"] == 200]
    back_s = after[0]["started_at"] - well_at if after else float("inf")
    (failed,) = await site.query("select count(*) from jobs where state <> 'succeeded'")
    print(f"open after {opened_s:.1f} s and {len(burst)} calls")
    print(f"{len(probes)} calls later in the outage, {min(gaps, default=0):.1f} s apart")
    print(f"back after {back_s:.1f} s; jobs not succeeded {failed[0]} of "
          f"{len(posted.jobs)}")  # fmt: skip
    if share < 1:
        return len(burst) <= OPEN_WITHIN_CALLS and not failed[0]
    apart = min(gaps, default=INTERVAL_S) >= INTERVAL_S - 0.5
    soon = opened_s <= OPEN_WITHIN_S and back_s <= RECOVERED_WITHIN_S
    return soon and apart and not failed[0]


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
