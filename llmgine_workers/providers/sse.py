"""Server-sent events out of bytes in whatever pieces the network delivers them."""

from __future__ import annotations

from dataclasses import dataclass

MAX_EVENT = 1024**2
"""Bytes of one event; a chunk of a model's answer is a thousandth of it."""

_BOM = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """An event longer than `MAX_EVENT`: no answer of a model looks like that."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name (empty if it has none) and its data, still encoded."""

    name: bytes
    data: bytes


class EventParser:
    """Feed it chunks, it gives the events that are complete.

    The format is https://html.spec.whatwg.org/multipage/server-sent-events.html:
    lines end in LF, CRLF or CR, the space after the colon is optional, lines that
    start with a colon are comments. Only bytes are cut, so no character can be torn.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0
        self._at_start = True

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completes; raises EventTooLong."""
        text = self._rest + chunk
        if self._at_start and len(text) >= len(_BOM):
            text, self._at_start = text.removeprefix(_BOM), False
        # A CR at the very end may be the first half of a CRLF: it waits.
        end = max(text.rfind(b"\n"), text.rfind(b"\r", 0, len(text) - 1)) + 1
        self._rest = text[end:]
        if len(self._rest) > MAX_EVENT:
            raise EventTooLong
        return self._events(text[:end])

    def end(self) -> list[Event]:
        """What the stream left without its blank line when it ended."""
        return self._events(self._rest + b"\n\n")

    def _events(self, text: bytes) -> list[Event]:
        found: list[Event] = []
        for line in text.splitlines():
            if line:
                self._field(line)
                continue
            if self._data:
                found.append(Event(self._name, b"\n".join(self._data)))
            self._name, self._data, self._size = b"", [], 0
        return found

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
            if self._size > MAX_EVENT:
                raise EventTooLong
        elif name == b"event":
            self._name = value.removeprefix(b" ")
