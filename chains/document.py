"""YAML or JSON text -> plain values, with the line of every place kept.

YAML is read from the parser's events, so an alias bomb, a Python tag or a deep
nest is refused before anything is built. Plain words follow YAML 1.2's core schema
(the one JSON fits into): `no`, `on` and `2026-11-20` are texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Never

import yaml

from chains.findings import Finding, InvalidChain, pointer
from chains.json_value import MAX_DEPTH, Json

MAX_BYTES = 64 * 1024
"""Of a chain's text, and of its canonical JSON. A bound for people who parse YAML
by the request (reliability rule J8)."""

_Mark = tuple[int, int]
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it is
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None,
          "true": True, "True": True, "TRUE": True,
          "false": False, "False": False, "FALSE": False}  # fmt: skip
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Document:
    """A decoded text, where it came from, and line and column of every pointer."""

    value: Json
    source: str | None = None
    marks: Mapping[str, _Mark] = field(default_factory=dict)

    def locate(self, finding: Finding) -> Finding:
        """The finding with its file, and its line where one is known."""
        at = finding.pointer
        while at and at not in self.marks:
            at = at.rpartition("/")[0]
        line, column = self.marks.get(at, (None, None))
        return replace(finding, file=self.source, line=line, column=column)

    def in_order(self, findings: Iterable[Finding]) -> list[Finding]:
        """Located findings in reading order; one per place, code and sentence."""
        located = dict.fromkeys(self.locate(finding) for finding in findings)
        return sorted(located, key=lambda f: (f.line or 0, f.column or 0, f.pointer))


def read_yaml(text: str, source: str | None = None) -> Document:
    """One YAML document; InvalidChain if it is broken, too large or unsafe."""
    _check_size(text, source)
    builder = _Builder(source)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        builder.findings.append(_yaml_finding(error, text, source))
    if builder.findings:
        raise InvalidChain(builder.findings)
    return Document(builder.value, source, builder.marks)


def read_json(text: str, source: str | None = None) -> Document:
    """One JSON document; InvalidChain if it is broken, too large or ambiguous."""
    _check_size(text, source)
    doubled: list[Finding] = []

    def members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            doubled.append(_refusal("duplicate_key", f"{twice!r} twice", source))
        return found

    try:
        value = json.loads(
            text, object_pairs_hook=members, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as error:
        where = (error.lineno, error.colno)
        raise InvalidChain([_refusal("invalid_json", error.msg, source, where)]) from None
    except RecursionError:
        detail = f"at most {MAX_DEPTH} levels inside each other"
        raise InvalidChain([_refusal("too_deep", detail, source)]) from None
    except ValueError as error:  # a constant, or an integer beyond Python's digits
        raise InvalidChain([_refusal("invalid_number", str(error), source)]) from None
    if doubled:
        raise InvalidChain(doubled)
    return Document(value, source)


def decode(content: bytes, source: str | None = None) -> str:
    """UTF-8, with or without a byte order mark; InvalidChain if it is not."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        detail = f"byte {error.start} is not UTF-8"
        raise InvalidChain([_refusal("invalid_unicode", detail, source)]) from None


class _Builder:
    """Turns parser events into values, one event at a time, without recursion."""

    def __init__(self, source: str | None) -> None:
        self.source = source
        self.value: Json = None
        self.marks: dict[str, _Mark] = {}
        self.findings: list[Finding] = []
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._stop(event, "invalid_yaml", "one document to a file")
        elif isinstance(event, yaml.NodeEvent):
            self._node(event)
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            self._open.pop()

    def _node(self, event: yaml.NodeEvent) -> None:
        self._refuse_magic(event)
        parent = self._open[-1] if self._open else None
        if parent and isinstance(parent.value, dict) and parent.key is None:
            self._key(parent, event)
            return
        value = self._value(event)
        at = self._place(parent, value, _mark(event))
        if isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) >= MAX_DEPTH:
                detail = f"at most {MAX_DEPTH} levels inside each other"
                self._stop(event, "too_deep", detail)
            self._open.append(_Open(at, value))

    def _refuse_magic(self, event: yaml.NodeEvent) -> None:
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            name = f"{'*' if isinstance(event, yaml.AliasEvent) else '&'}{event.anchor}"
            detail = f"{name}: anchors and aliases are not allowed, write it out"
            self._note(event, "yaml_alias_not_allowed", detail)
        elif tag := getattr(event, "tag", None):
            detail = f"tags such as {tag[:60]} are not allowed"
            self._note(event, "yaml_tag_not_allowed", detail)

    def _key(self, parent: _Open, event: yaml.NodeEvent) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            self._stop(event, "invalid_yaml", "a key must be a text")
        parent.key = event.value
        at = parent.pointer + pointer([event.value])
        if event.value in parent.value:
            self._note(event, "duplicate_key", f"{event.value!r} is written twice", at)
        self.marks.setdefault(at, _mark(event))

    def _place(self, parent: _Open | None, value: Json, mark: _Mark) -> str:
        if parent is None:
            self.value, at = value, ""
        elif parent.key is None:
            at = f"{parent.pointer}/{len(parent.value)}"
            parent.value.append(value)
        else:
            at = parent.pointer + pointer([parent.key])
            parent.value[parent.key] = value
            parent.key = None
        self.marks.setdefault(at, mark)
        return at

    def _value(self, event: yaml.NodeEvent) -> Json:
        if isinstance(event, yaml.MappingStartEvent):
            return {}
        if isinstance(event, yaml.SequenceStartEvent):
            return []
        if not isinstance(event, yaml.ScalarEvent):
            return None  # an alias, already noted
        if not event.implicit[0]:
            return event.value
        try:
            return _plain(event.value)
        except ValueError as error:  # more digits than Python converts
            self._note(event, "invalid_number", str(error))
            return None

    def _note(
        self, event: yaml.Event, code: str, detail: str, at: str | None = None
    ) -> None:
        if at is None:
            at = self._open[-1].pointer if self._open else ""
        line, column = _mark(event)
        self.findings.append(
            Finding(at, code, detail, file=self.source, line=line, column=column)
        )

    def _stop(self, event: yaml.Event, code: str, detail: str) -> Never:
        self._note(event, code, detail)
        raise InvalidChain(self.findings)


@dataclass
class _Open:
    """A list or mapping whose end has not come yet."""

    pointer: str
    value: Any
    key: str | None = None


def _plain(word: str) -> Json:
    if word in _WORDS:
        return _WORDS[word]
    if _INT.fullmatch(word):
        return int(word)
    return float(word) if _FLOAT.fullmatch(word) else word


def _mark(event: yaml.Event) -> _Mark:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


def _refusal(
    code: str, detail: str, source: str | None, mark: _Mark | None = None
) -> Finding:
    line, column = mark or (None, None)
    return Finding("", code, detail, file=source, line=line, column=column)


def _check_size(text: str, source: str | None) -> None:
    # Characters first: encoding 10 MB only to count it would be the attack.
    try:
        size = len(text) if len(text) > MAX_BYTES else len(text.encode())
    except UnicodeEncodeError as error:
        detail = f"character {error.start} is a lone surrogate"
        raise InvalidChain([_refusal("invalid_unicode", detail, source)]) from None
    if size > MAX_BYTES:
        finding = _refusal("too_large", f"at most {MAX_BYTES} bytes", source)
        raise InvalidChain([replace(finding, limit=MAX_BYTES)])


def _yaml_finding(error: yaml.YAMLError, text: str, source: str | None) -> Finding:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        detail = error.problem or error.context or "not YAML"
        lines = text.splitlines()
        if mark.line < len(lines) and "\t" in _indentation(lines[mark.line]):
            detail = "YAML is indented with spaces, here is a tab"
        return _refusal("invalid_yaml", detail, source, (mark.line + 1, mark.column + 1))
    position = getattr(error, "position", 0) or 0
    before = text[:position]
    line, column = before.count("\n") + 1, position - before.rfind("\n")
    detail = getattr(error, "reason", None) or "not YAML"
    return _refusal("invalid_yaml", detail, source, (line, column))


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
