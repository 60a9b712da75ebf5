"""`llmgine` with a clock on the worker's loop: writes how late each tick came (seconds).

Only for load tests, so that a worker need not carry a probe.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TextIO

from llmgine_workers import loop_thread
from llmgine_workers.cli.app import main

LAG_FILE = "LLMGINE_BENCH_LAG_FILE"
TICK_S = 0.02


def _tick(loop: asyncio.AbstractEventLoop, due: float, file: TextIO) -> None:
    now = time.monotonic()
    file.write(f"{max(0.0, now - due):.4f}\n")
    loop.call_later(TICK_S, _tick, loop, now + TICK_S, file)


def _watch() -> None:
    make = loop_thread.new_event_loop
    file = open(os.environ[LAG_FILE], "a", buffering=1)  # noqa: SIM115 - until the end

    def watched() -> asyncio.AbstractEventLoop:
        loop = make()
        loop.call_soon(_tick, loop, time.monotonic(), file)
        return loop

    loop_thread.new_event_loop = watched


if __name__ == "__main__":
    _watch()
    main()
