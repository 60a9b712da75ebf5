"""Clocks that tests move, and a Redis that is away."""

from __future__ import annotations

import pytest

from llmgine_workers.ephemeral.connection import Ephemeral
from tests.ephemeral.conftest import ephemeral, new_ephemeral

__all__ = ["ephemeral", "new_ephemeral"]


class Clock:
    """Monotonic seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def away(new_ephemeral: object) -> Ephemeral:
    """A connection to a Redis that is not there."""
    assert callable(new_ephemeral)
    found = new_ephemeral("redis://127.0.0.1:1")
    assert isinstance(found, Ephemeral)
    return found
