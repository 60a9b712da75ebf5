"""What a reservation costs: microseconds in Redis and here, and bytes per rule.

The figures must not grow with the tokens of a limit nor with what waits behind it.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.ephemeral.rules import Usage, Window
from llmgine_workers.ephemeral.windows import Windows, rule_key
from llmgine_workers.events.emit import Events
from llmgine_workers.local import EmbeddedValkey
from llmgine_workers.resilience.admission import SUCCEEDED, Admission, Admitted
from llmgine_workers.resilience.rules import Demand, units_of
from llmgine_workers.settings import LimitSettings
from tests.servers import RedisServer


def main() -> None:
    """Measure limits of several sizes with 1 to 4 rules each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmgine-") as folder:
        server = RedisServer(EmbeddedValkey(Path(folder)))
        server.start()
        try:
            asyncio.run(_measure(server.url, arguments.calls))
        finally:
            server.restore()
            server.stop()


async def _measure(url: str, calls: int) -> None:
    print(
        f"{'tokens/1m':>12} {'rules':>5} {'us/call':>8} {'us in Redis':>11} {'bytes':>6}"
    )
    for tokens in (10**5, 10**7, 10**9):
        for rules in (1, 4):
            await _one(url, calls, tokens, rules)


async def _one(url: str, calls: int, tokens: int, rules: int) -> None:
    ephemeral = Ephemeral(url, f"cost{tokens}x{rules}", answer_s=5.0)
    amounts: list[dict[str, object]] = [
        {"tokens": f"{tokens}/1m"},
        {"requests": "1000000/1m"},
        {"in_flight": 1000},
        {"input_tokens": f"{tokens}/1m", "per": "tenant"},
    ]
    limits = [
        LimitSettings.model_validate({"match": "openai/*", **amount})
        for amount in amounts[:rules]
    ]
    admission = Admission(ephemeral, limits, Events([]))
    await _fill(ephemeral, admission)
    await ephemeral.command("CONFIG", "RESETSTAT")
    demand = Demand("openai/gpt-5-mini", "acme", 900, 600, "a step")
    began = time.perf_counter()
    for _ in range(calls):
        verdict = await admission.ask(demand, 60)
        if isinstance(verdict, Admitted):
            await admission.settle(verdict, SUCCEEDED, used=units_of(300, 20))
    took = (time.perf_counter() - began) / calls
    stats = (await ephemeral.command("INFO", "commandstats")).decode()
    scripts = [line for line in stats.splitlines() if line.startswith("cmdstat_eval")]
    usec = sum(int(line.split("usec=")[1].split(",")[0]) for line in scripts)
    rule = admission.rules.of(demand.model, "acme")[0]
    size = await ephemeral.command("MEMORY", "USAGE", rule_key(ephemeral, rule))
    print(f"{tokens:>12} {rules:>5} {took * 1e6:>8.0f} {usec / calls:>11.0f} {size:>6}")
    await ephemeral.close()


async def _fill(ephemeral: Ephemeral, admission: Admission) -> None:
    """A unit in every counter, as after a minute under load."""
    rules = admission.rules.of("openai/gpt-5-mini", "acme")
    windows = [rule for rule in rules if isinstance(rule, Window)]
    await Windows(ephemeral).add(
        [Usage(rule, 1, age / 2) for rule in windows for age in range(120)]
    )


if __name__ == "__main__":
    main()
