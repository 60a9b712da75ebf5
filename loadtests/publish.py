"""How fast hints reach a quorum queue, each of them confirmed.

    python -m loadtests.publish [--hints 30000]

Starts a RabbitMQ of its own, publishes through the broker room as a gateway does, and
prints one line of JSON: hints a second, and this process's CPU for one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from llmgine_workers import clock
from llmgine_workers.broker import messages, open_broker
from llmgine_workers.broker.declare import declare
from llmgine_workers.engine.hints import BATCH, BATCHES_AT_ONCE
from llmgine_workers.local import PrivateRabbit

POOL = "openai"
PREFIX = "llmgine"
WITHIN_S = 120


def main(arguments: Sequence[str]) -> None:
    """Publish them; the exit status is 1 if one was not confirmed."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.publish")
    parser.add_argument("--hints", type=int, default=30_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="publish-") as folder:
        rabbit = PrivateRabbit(Path(folder))
        rabbit.start()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                result = runner.run(_run(rabbit.url, options.hints))
        finally:
            rabbit.stop()
    sys.stdout.write(json.dumps(result) + "\n")
    sys.exit(0 if not result["unconfirmed"] else 1)


async def _run(url: str, count: int) -> dict[str, Any]:
    await declare(url, PREFIX, [POOL])
    broker = open_broker(url, PREFIX)
    queue = f"{PREFIX}.{POOL}"
    await broker.publish(queue, _hints(BATCH))  # the connection is open
    begun, cpu = time.perf_counter(), time.process_time()
    left = count // BATCH
    unconfirmed = 0

    async def publish() -> None:
        nonlocal left, unconfirmed
        while left > 0:
            left -= 1
            unconfirmed += len(await broker.publish(queue, _hints(BATCH)))

    async with asyncio.timeout(WITHIN_S):
        await asyncio.gather(*(publish() for _ in range(BATCHES_AT_ONCE)))
    took_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    published = count // BATCH * BATCH
    depth = await broker.depth(queue)
    await broker.close()
    return {
        "hints": published,
        "hints_per_s": round(published / took_s),
        "cpu_ms": round(1000 * cpu_s / published, 4),
        "unconfirmed": unconfirmed,
        "depth": depth,
    }


def _hints(count: int) -> list[messages.Message]:
    return [messages.hint(clock.uuid7(), "draft", 0, "summarize") for _ in range(count)]


if __name__ == "__main__":
    main(sys.argv[1:])
