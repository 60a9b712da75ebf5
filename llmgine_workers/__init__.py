"""LLM work as durable jobs: moved by RabbitMQ, remembered by PostgreSQL."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmgine_workers.client import AsyncClient, Client
    from llmgine_workers.tools.marking import ToolUnavailable, tool

__all__ = ["AsyncClient", "Client", "ToolUnavailable", "__version__", "tool"]
__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "llmgine_workers.client",
    "Client": "llmgine_workers.client",
    "ToolUnavailable": "llmgine_workers.tools.marking",
    "tool": "llmgine_workers.tools.marking",
}


def __getattr__(name: str) -> Any:
    """The names a user's own modules import, loaded when they are asked for."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
