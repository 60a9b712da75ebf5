"""Small objects that fit a JSON Schema: what a model with structured output answers."""

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from llmgine_workers.simulator.prompt import BadRequestError
from llmgine_workers.simulator.text import phrase

_MAX_DEPTH = 12
_MAX_TRIES = 50
_MAX_SIZE = 10_000
# What reading a keyword of the wrong type raises; the schema is the caller's.
_NOT_A_SCHEMA = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_FORMATS = {
    "date": "2026-11-20",
    "date-time": "2026-11-20T12:00:00Z",
    "time": "12:00:00Z",
    "email": "reader@example.com",
    "uri": "https://example.com/report",
    "uuid": "0193c1f2-7d1e-4c3a-9b1e-5f0c2a8e4d11",
}


def instance(schema: Mapping[str, Any], seed: int) -> Any:
    """A value that fits `schema`, a pure function of both.

    Knows type, enum, const, properties, items, the sizes, anyOf, oneOf, allOf and local
    `$ref`; ignores `pattern` and `if`. BadRequestError if the schema is none.
    """
    rng = Random(seed)  # noqa: S311  nothing secret, it must repeat
    try:
        return _value(schema, schema, rng, 0)
    except _NOT_A_SCHEMA as error:
        raise BadRequestError(f"the schema cannot be used: {error!r}") from error


def schema_in(text: str) -> Mapping[str, Any] | None:
    """The first JSON Schema of an object written out in a text that asks for JSON."""
    if "json" not in text.lower() or '"properties"' not in text:
        return None
    decoder = json.JSONDecoder()
    position = -1
    for _ in range(_MAX_TRIES):
        position = text.find("{", position + 1)
        if position < 0:
            return None
        try:
            found, _end = decoder.raw_decode(text, position)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("properties"), dict):
            return found
    return None


def _value(schema: Any, root: Mapping[str, Any], rng: Random, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None if schema is False or depth > _MAX_DEPTH else phrase(rng)
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return rng.choice(schema["enum"])
    kind = _kind(schema)
    if kind == "object":
        return _object(schema, root, rng, depth)
    if kind == "array":
        return _array(schema, root, rng, depth)
    return _SCALARS[kind](schema, rng)


def _resolved(schema: dict[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """Follow `$ref`, take the first alternative, merge what must all hold."""
    for _ in range(_MAX_DEPTH):
        if isinstance(ref := schema.get("$ref"), str):
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**_pointed(root, ref), **rest}
        elif alternatives := schema.get("anyOf") or schema.get("oneOf"):
            rest = {k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}
            schema = {**rest, **alternatives[0]}
        elif parts := schema.get("allOf"):
            schema = {key: value for key, value in schema.items() if key != "allOf"}
            for part in parts:
                schema = _merged(schema, part)
        else:
            break
    return schema


def _merged(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    both = {**left, **right}
    if "properties" in left and "properties" in right:
        both["properties"] = {**left["properties"], **right["properties"]}
    return both


def _pointed(root: Mapping[str, Any], ref: str) -> dict[str, Any]:
    found: Any = root
    for part in ref.removeprefix("#").strip("/").split("/") if ref != "#" else []:
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind in _KINDS:
        return str(kind)
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def _object(
    schema: Mapping[str, Any], root: Mapping[str, Any], rng: Random, depth: int
) -> dict[str, Any]:
    properties: Mapping[str, Any] = schema.get("properties") or {}
    required = schema.get("required") or ()
    shallow = depth < _MAX_DEPTH // 2
    made = {
        name: _value(part, root, rng, depth + 1)
        for name, part in properties.items()
        if shallow or name in required
    }
    for name in required:
        made.setdefault(name, phrase(rng))
    return made


def _array(
    schema: Mapping[str, Any], root: Mapping[str, Any], rng: Random, depth: int
) -> list[Any]:
    least = _size(schema.get("minItems", 0))
    most = int(schema.get("maxItems", max(least, 3)))
    shallow = depth < _MAX_DEPTH // 2
    size = max(least, min(most, rng.randint(1, 3))) if shallow else least
    fixed = schema.get("prefixItems") or []
    parts = [*fixed, *[schema.get("items", {})] * max(0, size - len(fixed))]
    return [_value(part, root, rng, depth + 1) for part in parts]


def _size(value: Any) -> int:
    if int(value) > _MAX_SIZE:
        raise ValueError(f"{value} is more than the simulator makes ({_MAX_SIZE})")
    return int(value)


def _string(schema: Mapping[str, Any], rng: Random) -> str:
    if (name := schema.get("format")) in _FORMATS:
        return _FORMATS[str(name)]
    text = phrase(rng)
    while len(text) < _size(schema.get("minLength", 0)):
        text += " " + phrase(rng)
    return text[: int(schema.get("maxLength", len(text)))]


def _integer(schema: Mapping[str, Any], rng: Random) -> int:
    step = int(schema.get("multipleOf", 1)) or 1
    low = int(schema.get("minimum", schema.get("exclusiveMinimum", 0)))
    low += "exclusiveMinimum" in schema and "minimum" not in schema
    high = int(schema.get("maximum", schema.get("exclusiveMaximum", max(low, 0) + 10)))
    high -= "exclusiveMaximum" in schema and "maximum" not in schema
    first = -(-low // step)
    return rng.randint(first, max(first, high // step)) * step


def _number(schema: Mapping[str, Any], rng: Random) -> float:
    low = float(schema.get("minimum", schema.get("exclusiveMinimum", 0)))
    high = float(schema.get("maximum", schema.get("exclusiveMaximum", low + 10)))
    step = float(schema.get("multipleOf", 0))
    value = low + (high - low) * (0.1 + 0.8 * rng.random())
    if step:
        return round(value / step) * step
    return round(value, 2) if high - low > 1 else value


def _boolean(_schema: Mapping[str, Any], rng: Random) -> bool:
    return rng.random() < 0.5


def _null(_schema: Mapping[str, Any], _rng: Random) -> None:
    return None


_SCALARS: dict[str, Callable[[Mapping[str, Any], Random], Any]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "null": _null,
}
_KINDS = {"object", "array", *_SCALARS}
