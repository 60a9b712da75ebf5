"""The chain behind a job that is one tool call."""

from __future__ import annotations

import re
from collections.abc import Mapping

from chains.chain import Chain
from chains.json_value import Json
from chains.template import literal


def single_tool_chain(tool: str, arguments: Mapping[str, Json]) -> Chain:
    """One step that calls `tool` with exactly these arguments.

    The step and the chain are named after the tool. The arguments come from a caller,
    not from an author: braces in them reach the tool as they are. `tool` must be a
    name a chain could `use`.
    """
    name = re.sub("[^a-z0-9_]", "_", tool.lower()).lstrip("_0123456789") or "tool"
    call = {"use": tool, "arguments": literal(dict(arguments))}
    return Chain.model_validate({"name": name, "steps": [{"name": name, "tool": call}]})
