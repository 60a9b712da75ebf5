"""`-i name=value`: a text; `name:=value`: JSON; `@path` in place of a value: a file.

The operator says what the value is, never its looks: `-i zip=01234` stays a text
whatever the chain expects, and `-i sentences:=3` is the number.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmgine_workers.cli.exits import Usage
from llmgine_workers.errors import LlmgineError

MAX_FILE = 64 * 1024**2
"""Bytes read of one file; the gateway's own limit is far below."""

_PAIR = re.compile(
    r"(?P<name>[A-Za-z_][A-Za-z0-9_-]*)(?P<operator>:?=)(?P<value>.*)", re.S
)


def inputs(written: Sequence[str]) -> dict[str, Any]:
    """The inputs of `-i` options. Usage if one cannot be read or is given twice."""
    found: dict[str, Any] = {}
    for text in written:
        match = _PAIR.fullmatch(text)
        if match is None:
            raise Usage(f"-i {text[:60]}: write name=text, name:=json or name=@file")
        name = match["name"]
        if name in found:
            raise Usage(f"-i {name} is given twice")
        value = _content(name, match["value"])
        found[name] = _json(name, value) if match["operator"] == ":=" else value
    return found


def texts(option: str, written: Sequence[str]) -> dict[str, str]:
    """`name=text` pairs of another option, as they stand."""
    found: dict[str, str] = {}
    for text in written:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise Usage(f"{option} {text[:60]}: write name=text")
        found[name] = value
    return found


def moment(option: str, text: str) -> str:
    """An age (`2h`) or a time with its zone, as RFC 3339. Usage if it is neither."""
    from datetime import datetime, timedelta

    from chains import duration
    from llmgine_workers import clock

    try:
        at = clock.now() - timedelta(seconds=duration.seconds(text))
    except (ValueError, OverflowError):
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise Usage(f"{option} {text[:60]}: write 2h, or RFC 3339") from None
    if at.tzinfo is None:
        raise Usage(f"{option} {text[:60]}: a time needs its zone, such as Z")
    return str(clock.rfc3339(at))


def _content(name: str, value: str) -> str:
    """The value itself, or the text of the file it names; `@-` is standard input."""
    if not value.startswith("@"):
        return value
    try:
        raw = _bytes(value[1:])
        if len(raw) > MAX_FILE:
            raise LlmgineError(f"-i {name}: more than {MAX_FILE} bytes", "too_large")
        return raw.decode()
    except OSError as error:
        reason = f"-i {name}: {value[1:]}: {error.strerror}"
        raise LlmgineError(reason, "invalid_input") from None
    except UnicodeDecodeError:
        reason = f"-i {name}: {value[1:]} is not UTF-8 text"
        raise LlmgineError(reason, "invalid_unicode") from None


def _bytes(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read(MAX_FILE + 1)
    with Path(path).expanduser().open("rb") as file:
        return file.read(MAX_FILE + 1)


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise LlmgineError(f"-i {name}: not JSON: {error}", "invalid_json") from None
