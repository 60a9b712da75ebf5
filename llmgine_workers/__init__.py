"""LLM work as durable jobs: moved by RabbitMQ, remembered by PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmgine_workers.tools.marking import ToolUnavailable, tool

__all__ = ["ToolUnavailable", "__version__", "tool"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The names a user's own modules import, loaded when they are asked for."""
    if name not in ("ToolUnavailable", "tool"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmgine_workers.tools import marking

    return getattr(marking, name)
