"""The eight filters of the template language."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from chains.json_value import Json

MAX_RENDERED = 4 * 1024 * 1024
"""Characters of all texts of one request: about a million tokens, the longest
context there is. Without it a 64 KiB chain could name a 1 MiB input 3,000 times, or
escape a text until it has doubled a thousand times."""


class FilterMisused(ValueError):
    """A filter met a value it has no meaning for."""


@dataclass(frozen=True, slots=True)
class FilterKind:
    """What a filter does, and which arguments it takes (None: any one value)."""

    apply: Callable[..., Json]
    takes: Sequence[type | None] = ()

    def refuses(self, arguments: Sequence[Json]) -> str | None:
        """Why these arguments do not fit, or None."""
        if len(arguments) != len(self.takes):
            wanted = len(self.takes) or "no"
            return f"takes {wanted} argument{'s' if len(self.takes) != 1 else ''}"
        for value, kind in zip(arguments, self.takes, strict=True):
            if kind is str and not isinstance(value, str):
                return "takes a text in quotes"
            if kind is int and (type(value) is not int or value < 0):
                return "takes a whole number from 0"
        return None


def text_of(value: Json) -> str:
    """A value inside a text: texts as they are, everything else as compact JSON."""
    if isinstance(value, str):
        return value
    return _json(value)


def _json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _default(value: Json, instead: Json) -> Json:
    return instead if value is None else value


def _join(value: Json, separator: str) -> str:
    if not isinstance(value, list):
        raise FilterMisused("is no list, so join has nothing to join")
    if len(separator) * len(value) > MAX_RENDERED:
        raise FilterMisused(f"comes to more than {MAX_RENDERED} characters")
    return separator.join(map(text_of, value))


def _length(value: Json) -> int:
    if not isinstance(value, str | list | dict):
        raise FilterMisused("is no text, list or object, so it has no length")
    return len(value)


FILTERS: Mapping[str, FilterKind] = MappingProxyType(
    {
        "default": FilterKind(_default, takes=(None,)),
        "json": FilterKind(_json),
        "join": FilterKind(_join, takes=(str,)),
        "truncate": FilterKind(lambda value, n: text_of(value)[:n], takes=(int,)),
        "trim": FilterKind(lambda value: text_of(value).strip()),
        "lower": FilterKind(lambda value: text_of(value).lower()),
        "upper": FilterKind(lambda value: text_of(value).upper()),
        "length": FilterKind(_length),
    }
)
