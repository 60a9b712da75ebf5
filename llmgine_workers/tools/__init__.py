"""Tools: Python functions marked with `@tool` that chains may call by name."""

from llmgine_workers.tools.definition import Tool
from llmgine_workers.tools.marking import ToolUnavailable, tool
from llmgine_workers.tools.registry import Tools, load_modules

__all__ = ["Tool", "ToolUnavailable", "Tools", "load_modules", "tool"]
