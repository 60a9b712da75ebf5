"""What reaches the terminal: safe text, JSON, tables; diagnostics go to stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Everything that can move the cursor, set a title, or reorder what is read: C0 but
# tab and newline, DEL, C1, the line separators and the bidirectional marks. Lone
# surrogates too, which no encoding takes.
_BEYOND_C0 = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNSAFE = re.compile(f"[\x00-\x08\x0b-\x1f{_BEYOND_C0}]")
_UNSAFE_IN_JSON = re.compile(f"[{_BEYOND_C0}]")  # it has escaped the others
_PASSWORD = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@]*(?=@)", re.I)
_API_KEY = re.compile(r"\b(llmg_[0-9A-Za-z]+_)[0-9A-Za-z_-]+")
_SDK_KEY = re.compile(r"\bsk-[0-9A-Za-z_-]{8,}")


def safe(text: str) -> str:
    """Text of a model or a stranger, without what a terminal would obey."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def masked(text: str) -> str:
    """Text without the passwords of URLs and the secret half of keys."""
    text = _PASSWORD.sub(r"\g<before>***", text)
    return _SDK_KEY.sub("sk-***", _API_KEY.sub(r"\1***", text))


def say(text: str = "") -> None:
    """One line of the answer, on stdout."""
    sys.stdout.write(safe(text) + "\n")
    sys.stdout.flush()


def stream(text: str) -> None:
    """A piece of the answer, on stdout at once."""
    sys.stdout.write(safe(text))
    sys.stdout.flush()


def note(text: str) -> None:
    """A diagnostic, on stderr; secrets masked."""
    sys.stderr.write(masked(safe(text)) + "\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:
    """The answer as one JSON text: indented for people, one line for programs."""
    sys.stdout.write(as_json(value, indent=2 if sys.stdout.isatty() else None) + "\n")
    sys.stdout.flush()


def say_line(value: Any) -> None:
    """One JSON text to a line, for programs."""
    sys.stdout.write(as_json(value) + "\n")


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that is exact and that no terminal obeys: unsafe characters are escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def say_value(value: Any) -> None:
    """An output: text as it is, anything else as indented JSON."""
    say(value if isinstance(value, str) else as_json(value, indent=2))


def say_table(
    columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, empty: str
) -> None:
    """Columns of the rows' fields; the sentence `empty` if there are none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[Text(_cell(row.get(column))) for column in columns] for row in rows]
    if not cells:
        note(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for line in cells:
        table.add_row(*line)
    # Into a pipe nothing is wrapped, so that a line stays a row.
    width = None if sys.stdout.isatty() else 10_000
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def usd(amount: float | None) -> str:
    """Dollars to the micro-dollar; unknown stays unknown."""
    return "unknown cost" if amount is None else f"${amount:.6f}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else as_json(value).strip('"')
    text = safe(" ".join(text.split()))
    return text if len(text) <= 80 else text[:79] + "…"
