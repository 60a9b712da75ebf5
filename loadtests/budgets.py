"""A budget is hit by many jobs at once while workers are killed and Redis is emptied.

The witness is the simulator: what its log says was completed or cut, times the price,
must never be above the budget. Every seed has a site of its own. Bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from llmgine_workers.settings import PriceSettings
from loadtests import witness
from loadtests.drive import until
from loadtests.fairness import client, job
from loadtests.site import Site, running

PRICE = PriceSettings(input=20.0, output=100.0)
"""Dollars a million tokens: a call of the run costs about half a cent."""

BUDGET_USD = 0.25

SETTINGS = f"""
[prices."openai/*"]
input = {PRICE.input}
output = {PRICE.output}
[[limits]]
match = "*"
per = "tenant"
usd = "{BUDGET_USD}/1d"
"""


def spent_usd(site: Site) -> float:
    """By the simulator's log; what was cut counts as far as it had got."""
    return sum(
        (call.get("input_tokens", 0) * PRICE.input
         + call.get("output_tokens", 0) * PRICE.output) / 1e6
        for call in witness.read_calls(site)
    )  # fmt: skip


async def run(site: Site, jobs: int, rng: random.Random) -> bool:
    """Post all at once, kill a worker and empty Redis meanwhile, then count."""
    body = {"jobs": [job()] * jobs}
    async with (
        client(site, site.key) as http,
        http.post("/v1/batches", json=body) as answer,
    ):
        answer.raise_for_status()

    async def is_busy() -> bool:
        return await witness.calls_open(site) >= 5

    for number in range(2):
        await until(is_busy, "calls are open", within_s=60, every_s=0.02)
        await asyncio.sleep(rng.uniform(0.0, 0.3))
        name = rng.choice(("openai-0", "openai-1"))
        site.kill(name)
        await asyncio.to_thread(site.redis.flush)
        print(f"kill {number + 1}: ${spent_usd(site):.4f} by then", flush=True)
        site.spawn(name, "worker", "openai")

    async def is_quiet() -> bool:
        rows = await site.query(
            "select count(*) filter (where state = 'running') as running, "
            "count(*) filter (where state = 'waiting' and reason = 'budget') as waiting "
            "from steps"
        )
        return rows[0]["running"] == 0 and rows[0]["waiting"] > 0

    await until(is_quiet, "everything waits for money", within_s=120)
    await asyncio.sleep(3)
    spent = spent_usd(site)
    rows = await site.query(
        "select coalesce(sum(cost), 0) / 1e6 as cost, count(*) filter "
        "(where state = 'ambiguous') as ambiguous, count(*) as n from attempts"
    )
    waiting = await site.query(
        "select state, reason, count(*) as n from steps group by 1, 2 order by 1, 2"
    )
    print(
        f"budget ${BUDGET_USD}, spent ${spent:.4f} by the simulator, "
        f"${rows[0]['cost']:.4f} by the ledger; {rows[0]['n']} attempts, "
        f"{rows[0]['ambiguous']} ambiguous; {[tuple(row) for row in waiting]}",
        flush=True,
    )
    return spent <= BUDGET_USD and not any(row["state"] == "failed" for row in waiting)


def main() -> None:
    """So many seeds, one verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    arguments = parser.parse_args()
    held = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        with tempfile.TemporaryDirectory(prefix="llmgine-") as scratch:
            site_of = running(
                Path(scratch),
                workers=["openai", "openai"],
                slots=100,
                simulator=("--seed", str(seed), "--latency", "lognormal:0.6,1.5,0.2,2"),
                settings=SETTINGS,
            )
            with site_of as site:
                print(f"seed {seed}")
                held.append(asyncio.run(run(site, arguments.jobs, random.Random(seed))))
    print(f"{sum(held)} of {len(held)} seeds held")
    print("HELD" if all(held) else "NOT HELD")
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
