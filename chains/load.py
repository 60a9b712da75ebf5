"""Text, file or decoded JSON -> Chain, with everything that is wrong at once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from chains import chain as grammar
from chains.chain import Chain
from chains.checks import check
from chains.document import MAX_BYTES, Document, decode, read_json, read_yaml
from chains.findings import Finding, InvalidChain, did_you_mean, pointer, shown
from chains.json_value import Json, json_findings

SUFFIXES = (".yaml", ".yml", ".json")
"""Of files that hold a chain."""


def load_chain(value: Json) -> Chain:
    """A chain from decoded JSON, such as the body of a request."""
    return _chain_of(Document(value))


def parse_yaml(text: str, source: str | None = None) -> Chain:
    """A chain from YAML; `source` names it in findings."""
    return _chain_of(read_yaml(text, source))


def parse_json(text: str, source: str | None = None) -> Chain:
    """A chain from JSON text; `source` names it in findings."""
    return _chain_of(read_json(text, source))


def read_chain(path: Path) -> Chain:
    """A chain from a file: JSON if it is named `.json`, else YAML.

    Raises InvalidChain, or OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 4)  # a byte order mark, and one too many
    source = str(path)
    text = decode(content, source)
    return (parse_json if path.suffix == ".json" else parse_yaml)(text, source)


def read_chains(folder: Path) -> dict[str, Chain]:
    """The chains of a folder's files by name; one InvalidChain for all files."""
    chains: dict[str, Chain] = {}
    findings: list[Finding] = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in SUFFIXES:
            continue
        try:
            chain = read_chain(path)
        except InvalidChain as invalid:
            findings.extend(invalid.findings)
            continue
        if chain.name in chains:
            detail = f"another file has a chain named {chain.name}"
            findings.append(Finding("/name", "duplicate_name", detail, file=str(path)))
        chains[chain.name] = chain
    if findings:
        raise InvalidChain(findings)
    return chains


def library_path() -> Path:
    """The folder of the chains that come with the package."""
    return Path(__file__).parent / "library"


def load_library() -> dict[str, Chain]:
    """The chains that come with the package, by name."""
    return read_chains(library_path())


def canonical(chain: Chain) -> dict[str, Json]:
    """The chain as JSON, as it was written."""
    return chain.model_dump(mode="json", by_alias=True, exclude_unset=True)


def from_canonical(definition: Json) -> Chain:
    """The chain that `canonical` was asked for, from a place that keeps such JSON.

    Nothing is checked again but the shape, and no size is too large: the chain of a
    tool job holds its arguments.
    """
    return Chain.model_validate(definition)


def version_of(chain: Chain) -> str:
    """`sha256:` and the hash of the canonical JSON: equal chains, equal versions."""
    return "sha256:" + hashlib.sha256(_canonical_bytes(canonical(chain))).hexdigest()


def _canonical_bytes(value: Json) -> bytes:
    return json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":")
    ).encode()


def _chain_of(document: Document) -> Chain:
    _refuse(document, json_findings(document.value))
    value = document.value
    if not isinstance(value, dict):
        _refuse(document, [Finding("", "invalid_type", "a chain is an object")])
    if len(_canonical_bytes(value)) > MAX_BYTES:
        detail = f"at most {MAX_BYTES} bytes of JSON"
        _refuse(document, [Finding("", "too_large", detail, limit=MAX_BYTES)])
    rules = check(value)
    try:
        chain = Chain.model_validate(value)
    except ValidationError as error:
        told = {finding.pointer for finding in rules}
        shapes = _shape_findings(error, value)
        rules += [finding for finding in shapes if finding.pointer not in told]
    _refuse(document, rules)
    return chain


def _refuse(document: Document, findings: Iterable[Finding]) -> None:
    if located := document.in_order(findings):
        raise InvalidChain(located)


def _shape_findings(error: ValidationError, value: Json) -> list[Finding]:
    details = error.errors(include_url=False, include_context=True, include_input=True)
    return [finding for detail in details if (finding := _shape_finding(detail, value))]


def _shape_finding(error: ErrorDetails, value: Json) -> Finding | None:
    place, member = _place(error["loc"], value)
    kind = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    at = pointer(place)
    if kind == "extra_forbidden":
        suggestion = did_you_mean(str(place[-1]), _keys_beside(error["loc"]))
        return Finding(at, "unknown_field", f"not known here{suggestion}")
    if kind == "too_short" and member:
        return None  # pydantic counts what survived; the reasons are told themselves
    if bound := next((name for name in _BOUNDS if name in context), None):
        limit = context[bound]
        unit = _UNITS.get(kind, "")
        detail = f"{_BOUNDS[bound]} {limit}{unit}"
        return Finding(at, "out_of_range", detail, limit=limit)
    if kind == "missing":
        return Finding(at, "missing_field", "required")
    if kind == "string_pattern_mismatch":
        return Finding(at, "invalid_value", _PATTERNS[context["pattern"]])
    if kind in _TYPES:
        wanted = "a duration like 60s" if place[-1:] == ["timeout"] else _TYPES[kind]
        return Finding(at, "invalid_type", f"{wanted}, got {shown(member)}")
    return Finding(at, "invalid_value", _SAID_BY.sub("", error["msg"]))


_SAID_BY = re.compile("^(Value error, |Input should be )")
_BOUNDS = {
    "ge": "at least",
    "gt": "more than",
    "le": "at most",
    "lt": "less than",
    "min_length": "at least",
    "max_length": "at most",
}
_UNITS = {
    "string_too_short": " characters",
    "string_too_long": " characters",
    "too_short": " items",
    "too_long": " items",
}
_TYPES = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "dict_type": "an object",
    "model_type": "an object",
    "tuple_type": "a list",
}
_PATTERNS = {
    grammar.NAME: "a name is lower-case letters, digits and _, beginning with a letter",
    grammar.CHAIN_NAME: "a name is lower-case letters, digits, - and _",
    grammar.INPUT_NAME: "a name is letters, digits and _, beginning with a letter",
    grammar.TOOL_NAME: "a tool is named with letters, digits, - and _",
    grammar.CHAIN_REFERENCE: "a chain is named name or name@sha256:...",
    grammar.MODEL_NAME: "a model is an alias or provider/model, without blanks",
}


_ALTERNATIVES = ("[name]", "[chain]", "[number]", "[template]")
"""What pydantic puts between a place and what one of two shapes has there."""


def _place(loc: tuple[int | str, ...], value: Json) -> tuple[list[int | str], Json]:
    """The written place of an error, and what is written there.

    It ends where the document does, because one text may stand for a list of one.
    """
    place: list[int | str] = []
    for word in loc:
        if word in _ALTERNATIVES:
            continue
        if isinstance(value, list) and isinstance(word, int) and word < len(value):
            value = value[word]
        elif isinstance(value, dict) and word != "[key]":
            value = value.get(word)
        else:
            break
        place.append(word)
    return place, value


def _keys_beside(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that an object of the grammar has, given the place of a wrong one."""
    named = [word for word in loc[:-1] if isinstance(word, str)]
    model = _MODELS.get(named[-1], grammar.Step) if named else grammar.Chain
    return [field.alias or name for name, field in model.model_fields.items()]


_MODELS: Mapping[str, type[BaseModel]] = {
    "defaults": grammar.Defaults,
    "llm": grammar.LlmCall,
    "embed": grammar.EmbedCall,
    "messages": grammar.Message,
    "tool": grammar.ToolUse,
    "map": grammar.Map,
    "branch": grammar.Case,
    "loop": grammar.Loop,
    "chain": grammar.SubChain,
    "[chain]": grammar.Chain,
    "wait": grammar.Wait,
}
"""By the last word of a place. Where that is a name of the author's own, it is a step."""
