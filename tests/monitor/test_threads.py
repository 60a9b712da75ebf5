"""Threads of remote control: they answer, and a process ends without them."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from llmgine_workers.monitor.threads import DaemonThreads

ENDS_WHILE_A_CALL_BLOCKS = """
import asyncio, threading
from llmgine_workers.monitor.threads import DaemonThreads

async def main():
    loop = asyncio.get_running_loop()
    loop.set_default_executor(DaemonThreads())
    begun = threading.Event()
    loop.run_in_executor(None, lambda: (begun.set(), threading.Event().wait()))
    await loop.run_in_executor(None, begun.wait)

asyncio.run(main())
"""


async def test_a_call_is_answered_or_its_exception_is_raised() -> None:
    loop = asyncio.get_running_loop()
    threads = DaemonThreads()
    assert await loop.run_in_executor(threads, int, "7") == 7
    with pytest.raises(ValueError, match="seven"):
        await loop.run_in_executor(threads, int, "seven")


def test_a_call_that_never_returns_does_not_keep_the_process() -> None:
    command = [sys.executable, "-c", ENDS_WHILE_A_CALL_BLOCKS]
    subprocess.run(command, check=True, timeout=20)
