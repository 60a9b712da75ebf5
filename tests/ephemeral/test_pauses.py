"""A closed gate is closed for everyone until its time is over."""

from __future__ import annotations

import pytest

from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.ephemeral.pauses import Pauses
from tests.ephemeral.conftest import eventually_true

pytestmark = pytest.mark.integration


async def test_the_longer_pause_wins(ephemeral: Ephemeral) -> None:
    pauses = Pauses(ephemeral)
    assert await pauses.left_s("openai") == 0
    assert await pauses.pause("openai", 60) == 60
    assert 59 < await pauses.pause("openai", 1) <= 60
    assert 59 < await Pauses(ephemeral).left_s("openai") <= 60
    assert await pauses.left_s("anthropic") == 0


async def test_it_opens_by_itself(ephemeral: Ephemeral) -> None:
    pauses = Pauses(ephemeral)
    await pauses.pause("openai", 0.01)

    async def is_open() -> bool:
        return await pauses.left_s("openai") == 0

    await eventually_true(is_open)
