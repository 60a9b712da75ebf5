"""JSON Schema (2020-12): of inputs, of outputs, and whether a schema is safe to run.

A schema is written by whoever submits a chain, so it may not reach out (`$ref` to
elsewhere), take for ever (references that double, patterns that backtrack) or
recurse: reliability rules J6 and (c) 43.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jsonschema_rs as js

from chains.chain import Chain
from chains.findings import Finding, did_you_mean, pointer, shown
from chains.json_value import Json, json_findings
from chains.references import reference_findings

_META_SCHEMA = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
_MAX_INSTANCE_DEPTH = 200  # orjson, which stores what is found valid, stops at 254
_NAMES = {"object": "an object", "array": "a list", "string": "a text",
          "integer": "a whole number", "number": "a number",
          "boolean": "true or false", "null": "null"}  # fmt: skip


def check_schema(schema: Json, at: str = "") -> list[Finding]:
    """Why a schema cannot be used; `at` is the pointer of where it is written."""
    if not isinstance(schema, dict):
        return [Finding(at, "invalid_schema", "a schema is an object")]
    if unsafe := reference_findings(schema, at):
        return unsafe
    errors = {
        pointer(error.instance_path): _schema_detail(error)
        for error in _validator(_key(_META_SCHEMA)).iter_errors(schema)
    }
    if not errors:
        try:
            _validator(_key(schema))
        except js.ValidationError as error:
            errors = {pointer(error.instance_path): _schema_detail(error)}
    return [Finding(at + place, "invalid_schema", why) for place, why in errors.items()]


def fill_inputs(
    chain: Chain, given: Mapping[str, Json]
) -> tuple[dict[str, Json], list[Finding]]:
    """The inputs with their defaults, and everything that does not fit.

    Findings have pointers from `/inputs`; if there are any, do not use the inputs.
    """
    filled = {
        name: deepcopy(schema["default"])
        for name, schema in chain.inputs.items()
        if "default" in schema
    }
    filled.update(given)
    findings: list[Finding] = []
    for name, value in filled.items():
        findings.extend(_input_findings(chain, name, value))
    for name in chain.inputs.keys() - filled.keys():
        detail = "required: it has no default"
        findings.append(Finding(_input(name), "invalid_input", detail))
    return filled, sorted(findings, key=lambda finding: finding.pointer)


def schema_findings(
    schema: Mapping[str, Json], value: Json, at: str = ""
) -> list[Finding]:
    """Where a value, such as a step's output, does not fit a sound schema.

    Pointers are into the value, behind `at`.
    """
    unstorable = json_findings(value, _MAX_INSTANCE_DEPTH)
    if unstorable:
        return [replace(finding, pointer=at + finding.pointer) for finding in unstorable]
    errors = _validator(_key(schema)).iter_errors(value)
    return [finding for error in errors for finding in _finding(error, at)]


def _input_findings(chain: Chain, name: str, value: Json) -> list[Finding]:
    if name in chain.inputs:
        return schema_findings(chain.inputs[name], value, _input(name))
    known = f"the chain has no such input{did_you_mean(name, chain.inputs)}"
    return [Finding(_input(name), "unknown_field", known)]


def _input(name: str) -> str:
    return pointer(["inputs", name])


def _finding(error: js.ValidationError, at: str) -> Iterator[Finding]:
    at += pointer(error.instance_path)
    kind = error.kind.as_dict()
    if error.kind.name == "required":
        missing = at + pointer([kind["property"]])
        yield Finding(missing, "invalid_input", "required")
    elif error.kind.name in ("additionalProperties", "unevaluatedProperties"):
        for name in kind["unexpected"]:
            yield Finding(at + pointer([name]), "unknown_field", "not allowed here")
    elif wanted := _BOUNDS.get(error.kind.name):
        limit = kind["limit"]
        got = _measured(error.instance)
        detail = f"{wanted.format(limit)}, got {got}"
        yield Finding(at, "out_of_range", detail, limit=limit)
    else:
        yield Finding(at, "invalid_input", _shape_detail(error))


_BOUNDS = {
    "maximum": "at most {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "less than {}",
    "exclusiveMinimum": "more than {}",
    "maxLength": "at most {} characters",
    "minLength": "at least {} characters",
    "maxItems": "at most {} items",
    "minItems": "at least {} items",
    "maxProperties": "at most {} members",
    "minProperties": "at least {} members",
}


def _measured(value: Json) -> str:
    return str(len(value)) if isinstance(value, str | list | dict) else shown(value)


def _shape_detail(error: js.ValidationError) -> str:
    kind = error.kind.as_dict()
    make = _DETAILS.get(error.kind.name)
    return make(kind, error.instance) if make else error.message


def _schema_detail(error: js.ValidationError) -> str:
    if error.instance_path[-1:] == ["pattern"]:
        return "not a pattern (look-around and back-references are not supported)"
    if error.kind.name == "anyOf":
        suggestion = did_you_mean(str(error.instance), _NAMES)
        return f"{shown(error.instance)} is no JSON type{suggestion}"
    return _shape_detail(error)


def _type_detail(kind: Mapping[str, Any], value: Json) -> str:
    wanted = " or ".join(_NAMES.get(name, name) for name in kind["types"])
    return f"{wanted}, got {_NAMES[_type_name(value)]}"


def _type_name(value: Json) -> str:
    if value is None:
        return "null"
    return next(name for name, kind in _TYPES.items() if isinstance(value, kind))


_TYPES: dict[str, type] = {
    "boolean": bool,  # before integer: a bool is an int in Python
    "integer": int,
    "number": float,
    "string": str,
    "array": list,
    "object": dict,
}


def _options(kind: Mapping[str, Any], value: Json) -> str:
    listed = ", ".join(shown(option) for option in kind["options"][:20])
    return f"one of {listed}; got {shown(value)}"


_DETAILS: dict[str, Callable[[Mapping[str, Any], Json], str]] = {
    "type": _type_detail,
    "enum": _options,
    "const": lambda kind, _: f"exactly {shown(kind['expected_value'])}",
    "pattern": lambda kind, _: f"a text that matches {shown(kind['pattern'])}",
    "format": lambda kind, _: f"a text in the format {kind['format']}",
    "multipleOf": lambda kind, _: f"a multiple of {kind['multiple_of']}",
    "uniqueItems": lambda *_: "a list without repetitions",
    "contains": lambda *_: "a list with an item that fits `contains`",
    "not": lambda *_: "something that does not fit `not`",
    "anyOf": lambda *_: "something that fits one of the schemas in anyOf",
    "oneOf": lambda *_: "something that fits exactly one of the schemas in oneOf",
}


def _key(schema: Mapping[str, Json]) -> str:
    return json.dumps(schema, sort_keys=True)


@lru_cache(maxsize=512)
def _validator(key: str) -> js.Draft202012Validator:
    return js.Draft202012Validator(
        json.loads(key),
        validate_formats=True,
        offline=True,  # never fetches a $ref
        pattern_options=js.RegexOptions(),  # linear in the text, no backtracking
        mask="the value",  # messages may go to other people than the value
    )
