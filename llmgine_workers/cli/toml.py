"""Writes settings as TOML, for the children of `up`: the standard library only reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def dumps(tree: Mapping[str, Any]) -> str:
    """A document of inline tables; None is left out, as TOML has no null."""
    lines = [
        f"{_scalar(key)} = {_value(value)}"
        for key, value in tree.items()
        if value is not None
    ]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (
            f"{_scalar(key)} = {_value(item)}"
            for key, item in value.items()
            if item is not None
        )
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """JSON's texts, numbers, true and false are TOML's too, if DEL is escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
