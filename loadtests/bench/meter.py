"""What processes cost: CPU seconds and resident memory, each with its descendants."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

import psutil

SAMPLE_S = 0.25
Pids = Mapping[str, int]


def cpu_s(roots: Pids) -> dict[str, float]:
    """User and system time of each tree so far, its reaped children included."""
    return {name: round(_tree_cpu(pid), 3) for name, pid in roots.items()}


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The difference of two readings."""
    return {name: round(after[name] - before[name], 3) for name in after}


def rss_mb(roots: Pids) -> dict[str, float]:
    """Resident memory of each tree at this moment."""
    return {
        name: round(sum(_rss(one) for one in _tree(pid)) / 2**20, 1)
        for name, pid in roots.items()
    }


class PeakMemory:
    """The highest sum seen while the context is open, sampled."""

    def __init__(self, roots: Pids) -> None:
        self._roots = roots
        self.mb = 0.0

    async def __aenter__(self) -> Self:
        self._sampling = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sampling.cancel()

    async def _sample(self) -> None:
        while True:
            self.mb = max(self.mb, sum(rss_mb(self._roots).values()))
            await asyncio.sleep(SAMPLE_S)


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _tree_cpu(pid: int) -> float:
    total = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
            if process.pid == pid:
                total += times.children_user + times.children_system
    return total


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
