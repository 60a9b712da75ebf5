"""`{{ path | filter }}`: the whole template language, in one pass over a text.

    {{ inputs.topic }}                       a value; alone in its text it keeps its type
    {{ steps.plan.output.questions.0 }}      into objects by key, into lists by number
    {{ last.review.output.notes | default('-') }}
    {{ '{{' }}                               a literal: two braces

Nothing is evaluated: a path is looked up, filters are the eight below. What was
filled in is never read again, so braces inside a value stay what they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chains.failures import TemplateFailed, TooLarge
from chains.filters import FILTERS, MAX_RENDERED, FilterMisused, text_of
from chains.findings import did_you_mean
from chains.json_value import Json

_WORD = re.compile(r"[A-Za-z0-9_-]+")
_LITERAL = re.compile(
    r"""'(?P<single>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)"
    |(?P<json>-?\d{1,15}(?:\.\d{1,15})?(?![\w.])|(?:true|false|null)(?!\w)|\[\s*\]|\{\s*\})
    """,
    re.DOTALL | re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}

Path = tuple[str, ...]
Lookup = Callable[[Path], Json]
"""From a path to its value; null for what is not there."""


class TemplateRefused(ValueError):
    """A text that is no template: `code`, a sentence, and where in the text."""

    def __init__(self, code: str, detail: str, offset: int) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Filter:
    """One `| name(arguments)`."""

    name: str
    arguments: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Expression:
    """What stands between two pairs of braces: a path or a literal, then filters."""

    path: Path
    filters: tuple[Filter, ...] = ()
    literal: Json = None

    @property
    def has_default(self) -> bool:
        """Whether a missing or null value has a stand-in."""
        return any(filter_.name == "default" for filter_ in self.filters)


@dataclass(frozen=True, slots=True)
class Template:
    """A text in pieces: plain strings and expressions."""

    parts: tuple[str | Expression, ...]

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The expressions, in order."""
        return tuple(part for part in self.parts if isinstance(part, Expression))


def parse(text: str) -> Template:
    """Split a text into its pieces; TemplateRefused where braces hold no expression."""
    parts: list[str | Expression] = []
    position = 0
    while (start := text.find("{{", position)) >= 0:
        if start > position:
            parts.append(text[position:start])
        reader = _Reader(text, start)
        parts.append(reader.expression())
        position = reader.position
    if position < len(text):
        parts.append(text[position:])
    return Template(tuple(parts))


def literal(value: Json) -> Json:
    """A value that renders to exactly `value`, whatever braces are in its texts."""
    if isinstance(value, str):
        return value.replace("{{", "{{ '{{' }}")
    if isinstance(value, list):
        return [literal(member) for member in value]
    if isinstance(value, dict):
        return {key: literal(member) for key, member in value.items()}
    return value


def render(value: Json, lookup: Lookup, step: str) -> Json:
    """Fill every text inside `value`; keys and everything that is no text stay.

    Raises TemplateFailed, naming `step` and the path, for a missing or null path
    without `default` and for a filter that does not fit its value; TooLarge beyond
    MAX_RENDERED.
    """
    return Renderer(lookup, step).fill(value)


def dig(value: Json, path: Sequence[str]) -> Json:
    """Follow a path into objects (by key) and lists (by number); null if it ends."""
    for word in path:
        if isinstance(value, dict):
            value = value.get(word)
        elif isinstance(value, list) and word.isascii() and word.isdigit():
            value = (
                value[int(word)] if len(word) < 10 and int(word) < len(value) else None
            )
        else:
            return None
    return value


class Renderer:
    """Fills the texts of one request, and counts what they come to together."""

    def __init__(self, lookup: Lookup, step: str) -> None:
        self._lookup = lookup
        self._step = step
        self._left = MAX_RENDERED

    def fill(self, value: Json) -> Json:
        """As `render`."""
        if isinstance(value, str):
            return self._filled(value)
        if isinstance(value, list):
            return [self.fill(member) for member in value]
        if isinstance(value, dict):
            return {key: self.fill(member) for key, member in value.items()}
        return value

    def text(self, text: str) -> str:
        """As `render`, but always a text: what a model can read."""
        return text_of(self._filled(text))

    def _filled(self, text: str) -> Json:
        parts = self._parse(text).parts
        if len(parts) == 1 and isinstance(parts[0], Expression):
            value = self._value(parts[0])
            self._spend(value)
            return value
        pieces: list[str] = []
        for part in parts:
            piece = part if isinstance(part, str) else text_of(self._value(part))
            self._spend(piece)
            pieces.append(piece)
        return "".join(pieces)

    def _parse(self, text: str) -> Template:
        try:
            return parse(text)
        except TemplateRefused as error:  # a chain that did not come through load.py
            raise TemplateFailed(self._step, text[:60], error.detail) from error

    def _value(self, expression: Expression) -> Json:
        path = ".".join(expression.path)
        value = self._lookup(expression.path) if path else expression.literal
        missing = value is None
        for filter_ in expression.filters:
            if filter_.name == "default" or not missing:
                value = self._filtered(filter_, value, path)
                missing = False
        if missing:
            raise TemplateFailed(self._step, path, "is missing or null")
        return value

    def _filtered(self, filter_: Filter, value: Json, path: str) -> Json:
        try:
            filtered = FILTERS[filter_.name].apply(value, *filter_.arguments)
        except FilterMisused as error:
            raise TemplateFailed(self._step, path, str(error)) from error
        if isinstance(filtered, str) and len(filtered) > MAX_RENDERED:
            raise TooLarge(self._step, f"more than {MAX_RENDERED} characters")
        return filtered

    def _spend(self, value: Json) -> None:
        unread = [value]
        while unread and self._left >= 0:
            member = unread.pop()
            if isinstance(member, str):
                self._left -= len(member)
                continue
            self._left -= 1
            if isinstance(member, list):
                unread.extend(member)
            elif isinstance(member, dict):
                unread.extend(member.keys())
                unread.extend(member.values())
        if self._left < 0:
            raise TooLarge(self._step, f"more than {MAX_RENDERED} characters")


class _Reader:
    """Reads one expression, from its opening braces to behind its closing ones."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._start = start
        self.position = start + 2

    def expression(self) -> Expression:
        found, value = self._literal()
        if found and not isinstance(value, str):
            raise self._refused("expected a path or a text in quotes")
        path = () if found else self._path()
        filters = []
        while self._take("|"):
            filters.append(self._filter())
        if not self._take("}}"):
            raise self._refused("expected | or }}")
        return Expression(path, tuple(filters), value)

    def _path(self) -> Path:
        words = [self._word("a path such as inputs.topic")]
        while self._take("."):
            words.append(self._word("a name after the dot"))
        return tuple(words)

    def _filter(self) -> Filter:
        name = self._word("a filter")
        if name not in FILTERS:
            known = f"{name} is no filter{did_you_mean(name, FILTERS)}"
            raise TemplateRefused("unknown_filter", known, self._start)
        arguments: list[Json] = []
        if self._take("("):
            while not self._take(")"):
                found, value = self._literal()
                if not found:
                    raise self._refused("expected a text in quotes or a number")
                arguments.append(value)
                self._take(",")
        if problem := FILTERS[name].refuses(arguments):
            raise self._refused(f"{name}: {problem}")
        return Filter(name, tuple(arguments))

    def _literal(self) -> tuple[bool, Json]:
        self._skip_blanks()
        match = _LITERAL.match(self._text, self.position)
        if match is None:
            return False, None
        self.position = match.end()
        if match["json"] is not None:
            return True, json.loads(match["json"])
        quoted = match["single"] if match["single"] is not None else match["double"]
        return True, _ESCAPED.sub(lambda m: _ESCAPES.get(m[1], m[1]), quoted)

    def _word(self, what: str) -> str:
        self._skip_blanks()
        match = _WORD.match(self._text, self.position)
        if match is None:
            raise self._refused(f"expected {what}")
        self.position = match.end()
        return match[0]

    def _take(self, symbol: str) -> bool:
        self._skip_blanks()
        if not self._text.startswith(symbol, self.position):
            return False
        self.position += len(symbol)
        return True

    def _skip_blanks(self) -> None:
        while self._text[self.position : self.position + 1].isspace():
            self.position += 1

    def _refused(self, why: str) -> TemplateRefused:
        seen = " ".join(self._text[self._start : self._start + 40].split())
        detail = f"{why} in {seen!r}; braces that are meant are written {{{{ '{{{{' }}}}"
        return TemplateRefused("invalid_template", detail, self._start)
