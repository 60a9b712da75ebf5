"""Tools made on the spot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llmgine_workers.errors import StepFailed
from llmgine_workers.tools import Tools
from llmgine_workers.tools.definition import Tool, make_tool
from llmgine_workers.tools.marking import mark_of, tool


def made(function: Callable[..., Any], **told: Any) -> Tool:
    """The tool that `@tool` and loading would make of a function."""
    marked = tool(**told)(function)
    mark = mark_of(marked)
    assert mark is not None
    return make_tool(marked, mark)


async def failing(call: Awaitable[Any]) -> StepFailed:
    """The failure that a call ends with."""
    with pytest.raises(StepFailed) as caught:
        await call
    return caught.value


def only(function: Callable[..., Any], **told: Any) -> Tools:
    return Tools([made(function, **told)])
