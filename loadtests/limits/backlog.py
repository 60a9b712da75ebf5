"""An endless backlog under limits of two providers and of its tenant.

No 60 s may see more than a limit, the tightest one must be used, a call of 60 % of a
limit must get through when its turn comes, and the providers, who have the same limits,
must never say 429. `--harm` kills, freezes or forgets the scripts of Redis in the middle.
Exit 1 unless it held.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from loadtests import witness
from loadtests.drive import Posted, session
from loadtests.limits.judge import Seen, judge
from loadtests.site import Site, running

PER_PROVIDER = 120_000
PER_TENANT = 160_000
LARGE = int(0.6 * PER_PROVIDER)
"""Tokens of a minute. The tenant's rule is the tightest: it works with both."""

SETTINGS = f"""
[steps]
max_attempts = 10
[[limits]]
match = "openai/*"
tokens = "{PER_PROVIDER}/1m"
[[limits]]
match = "anthropic/*"
tokens = "{PER_PROVIDER}/1m"
in_flight = 300
[[limits]]
match = "*"
per = "tenant"
tokens = "{PER_TENANT}/1m"
"""
MODELS = ("openai/gpt-5-mini", "anthropic/claude-sonnet-4-5")
MEAN_TOKENS = 1700
FROZEN_S = 60.0
LARGE_AT = 1.25
"""Minutes of work that stand before the large call: it is no younger than its turn."""
FROZEN_THROUGHPUT = 0.7


def main() -> None:
    """Run it; exit 1 unless the promise held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2, help="per provider")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--harm", choices=("none", "kill", "freeze", "scripts"))
    arguments = parser.parse_args()
    pools = [p for p in ("openai", "anthropic") for _ in range(arguments.workers)]
    simulator = ("--latency", "0.4", "--tpm", str(PER_PROVIDER))
    with tempfile.TemporaryDirectory(prefix="llmgine-") as folder:
        site_of = running(
            Path(folder),
            workers=pools,
            slots=100,
            simulator=(*simulator, "--seed", str(arguments.seed)),
            settings=SETTINGS,
        )
        with site_of as site:
            held = asyncio.run(_run(site, arguments))
    sys.exit(0 if held else 1)


async def _run(site: Site, arguments: argparse.Namespace) -> bool:
    rng, posted = random.Random(arguments.seed), Posted()
    jobs = int(2 * arguments.minutes * PER_TENANT / MEAN_TOKENS)
    begun = time.time()
    backlog = [_job(rng, n) for n in range(jobs)]
    backlog.insert(int(LARGE_AT * PER_TENANT / MEAN_TOKENS), _large())
    harm = asyncio.create_task(_harm(site, arguments, begun))
    await _post(site, backlog, posted)
    ends_at = begun + 60 * arguments.minutes
    await asyncio.sleep(max(0.0, ends_at - time.time()))
    harm.cancel()
    calls = [c for c in witness.read_calls(site) if c["started_at"] < ends_at]
    rules = _judged(calls, ends_at)
    lost = jobs + 1 - len(posted.jobs)
    failed = await site.query("select count(*) from jobs where state = 'failed'")
    print(f"jobs failed {failed[0][0]}, refused {lost}; CPU seconds {site.cpu_seconds()}")
    well = not failed[0][0] and not lost
    if arguments.harm:
        held = well and _at_most(rules, 1.7)
        held &= arguments.harm != "freeze" or _went_on(calls, begun, arguments)
    else:
        held = well and _at_most(rules, 1.0) and await _smooth(site, calls, rules)
    print("HELD" if held else "NOT HELD")
    return held


def _judged(calls: list[witness.Call], ends_at: float) -> list[Seen]:
    answered = [c for c in calls if c["ended"] == "completed"]
    rules = [
        judge("the tenant's", PER_TENANT, answered, ends_at),
        *(
            judge(f"{wire}'s", PER_PROVIDER, theirs, ends_at)
            for wire in ("openai", "anthropic")
            if (theirs := [c for c in answered if c["wire"] == wire])
        ),
    ]
    for rule in rules:
        print(rule)
    return rules


async def _smooth(site: Site, calls: list[witness.Call], rules: list[Seen]) -> bool:
    refused = sum(c.get("status") == 429 for c in calls)
    large = any(c.get("output_tokens", 0) > LARGE // 2 for c in calls)
    deliveries = await _deliveries(site)
    print(f"{len(calls)} calls, 429s {refused}, the large call "
          f"{'got through' if large else 'is still waiting'}")  # fmt: skip
    print(f"deliveries per completed call {deliveries:.2f}")
    await _lateness(site, calls)
    return rules[0].use >= 0.95 and deliveries <= 1.2 and not refused and large


async def _lateness(site: Site, calls: list[witness.Call]) -> None:
    """From the claim, as the ledger has it, to the provider: what the slack is for."""
    rows = await site.query("select job_id::text, n, started_at from attempts")
    claimed = {(r["job_id"], r["n"]): r["started_at"].timestamp() for r in rows}
    late = sorted(
        c["started_at"] - claimed[key]
        for c in calls
        if (key := (c["job"], int(c["attempt"]))) in claimed
    )
    if late:
        print(f"calls came {late[len(late) // 2]:.3f} s after their claim at the median, "
              f"{late[-1]:.3f} s at most")  # fmt: skip


def _went_on(
    calls: list[witness.Call], begun: float, arguments: argparse.Namespace
) -> bool:
    """Whether as much was done while Redis was frozen as in the same time before."""
    froze = begun + 30 * arguments.minutes
    length = min(FROZEN_S, 15 * arguments.minutes)
    done = [
        sum(
            c.get("output_tokens", 0) + c.get("input_tokens", 0)
            for c in calls
            if since <= c["started_at"] < since + length
        )
        for since in (froze, froze - length)
    ]
    print(f"{done[0]} tokens in the {length:.0f} s of the freeze, {done[1]} before it")
    return done[0] >= FROZEN_THROUGHPUT * done[1]


def _at_most(rules: list[Seen], share: float) -> bool:
    return all(rule.worst_window <= share for rule in rules)


async def _deliveries(site: Site) -> float:
    """Hints that workers looked at, for each call that was answered."""
    (row,) = await site.query(
        "select count(*) filter (where state = 'succeeded') as done from attempts"
    )
    refused = sum(
        log.read_text().count('"step.waiting"') for log in site.folder.glob("*-?.log")
    )
    return float((row["done"] + refused) / max(1, row["done"]))


async def _harm(site: Site, arguments: argparse.Namespace, begun: float) -> None:
    await asyncio.sleep(begun + 30 * arguments.minutes - time.time())
    if arguments.harm == "kill":
        site.redis.kill()
        site.redis.start()
    elif arguments.harm == "freeze":
        site.redis.pause()
        await asyncio.sleep(min(FROZEN_S, 15 * arguments.minutes))
        site.redis.resume()
    while arguments.harm == "scripts":
        site.redis.forget_scripts()
        await asyncio.sleep(1)


def _job(rng: random.Random, number: int) -> dict[str, Any]:
    """A call of 50 to 9,000 tokens, most of them small."""
    tokens = round(50 * 180 ** rng.random())
    return _of(MODELS[number % 2], tokens)


def _large() -> dict[str, Any]:
    return _of(MODELS[0], LARGE - 400)


def _of(model: str, tokens: int) -> dict[str, Any]:
    llm = {
        "model": model,
        "prompt": f"[[sim:tokens={tokens}]] Write.",
        "max_tokens": tokens,
    }
    steps = [{"name": "draft", "llm": llm}]
    options = {"stream": False, "timeout": "2h"}
    return {"chain": {"name": "backlog", "steps": steps}, "options": options}


async def _post(site: Site, jobs: list[dict[str, Any]], posted: Posted) -> list[str]:
    made: list[str] = []
    async with session(site) as client:
        for job in jobs:
            async with client.post("/v1/jobs", json=job) as answer:
                found = await answer.json()
            if answer.status == 202:
                made.append(found["id"])
            else:
                posted.refused.append((answer.status, found.get("code", "")))
    posted.jobs += made
    return made


if __name__ == "__main__":
    main()
