"""`$ref` inside a schema: only into itself, never in a circle, never doubling."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from chains.findings import Finding
from chains.json_value import Json

MAX_EXPANDED = 10_000
"""Values in a schema once every reference is written out. Forty definitions that each
name the next one twice would be checked 2**40 times."""
_MAX_CHAINED = 50
_REFUSED = ("$id", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef")


def reference_findings(schema: dict[str, Json], at: str) -> list[Finding]:
    """Why a schema's references are refused, or nothing."""
    try:
        _Expansion(schema).size(schema, ())
    except _ReferenceRefused as refusal:
        return [Finding(at, "invalid_schema", str(refusal))]
    return []


class _ReferenceRefused(ValueError):
    pass


class _Expansion:
    """Counts what a schema comes to when its references are written out."""

    def __init__(self, root: dict[str, Json]) -> None:
        self._root = root
        self._sizes: dict[str, int] = {}

    def size(self, node: Json, following: tuple[str, ...]) -> int:
        total = 0
        unread: list[Any] = [node]
        while unread:
            value = unread.pop()
            total += 1
            if isinstance(value, list):
                unread.extend(value)
            elif isinstance(value, dict):
                unread.extend(value.values())
                total += self._referenced(value, following)
            if total > MAX_EXPANDED:
                detail = f"at most {MAX_EXPANDED} values with references written out"
                raise _ReferenceRefused(detail)
        return total

    def _referenced(self, value: dict[str, Json], following: tuple[str, ...]) -> int:
        for keyword in _REFUSED:
            if isinstance(value.get(keyword), str):
                raise _ReferenceRefused(f"{keyword} is not supported, use $defs and $ref")
        reference = value.get("$ref")
        if not isinstance(reference, str):
            return 0
        if reference in following or reference == "#":
            raise _ReferenceRefused(f"{reference} refers to itself")
        if len(following) >= _MAX_CHAINED:
            raise _ReferenceRefused(f"more than {_MAX_CHAINED} references in a row")
        if reference not in self._sizes:
            target = self._target(reference)
            self._sizes[reference] = self.size(target, (*following, reference))
        return self._sizes[reference]

    def _target(self, reference: str) -> Json:
        if not reference.startswith("#/"):
            raise _ReferenceRefused(f"{reference[:80]} is outside of the schema")
        node: Json = self._root
        for word in unquote(reference[2:]).split("/"):
            word = word.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and word.isdecimal() and int(word) < len(node):
                node = node[int(word)]
            elif isinstance(node, dict) and word in node:
                node = node[word]
            else:
                raise _ReferenceRefused(f"{reference[:80]} is not there")
        return node
