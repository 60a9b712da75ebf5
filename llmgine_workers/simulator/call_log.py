"""The simulator's own log: every call, from its first moment to its end.

Each call is two JSON lines, `"event": "start"` and `"event": "end"`, written as they
happen, so that also a killed simulator has told what it saw. `ended` is one of

    completed  the whole answer was written to the socket
    refused    answered with an error status, nothing was generated
    cut        everything else: the client left, or a fault stopped or spoiled the answer
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO


@dataclass(slots=True)
class CallRecord:
    """One call. `..._at`: Unix seconds; `..._mono`: this machine's monotonic seconds.

    `sim` tells one process's numbers `n` from another's in a shared file. Tokens are
    those of the answer it meant to send, 0 if refused; `text_sha256` is that text's hash.
    """

    n: int
    sim: str
    wire: str
    endpoint: str
    request_id: str
    job: str | None = None
    step: str | None = None
    attempt: int | str | None = None
    fence: int | str | None = None
    model: str = ""
    stream: bool = False
    prompt_sha256: str | None = None
    text_sha256: str | None = None
    tool_calls: list[str] = field(default_factory=list)
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    status: int | None = None
    fault: str | None = None
    chunks_sent: int = 0
    started_at: float = 0.0
    started_mono: float = 0.0
    first_byte_at: float | None = None
    first_byte_mono: float | None = None
    ended_at: float | None = None
    ended_mono: float | None = None
    ended: str | None = None

    def sent_first_byte(self, status: int) -> None:
        """Note the status and that the first byte leaves now."""
        self.status = status
        self.first_byte_at, self.first_byte_mono = time.time(), time.monotonic()

    def as_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return {name: getattr(self, name) for name in _FIELDS}


_FIELDS = tuple(item.name for item in fields(CallRecord))


class CallLog:
    """All calls in memory and, with a path, appended to a file line by line."""

    def __init__(self, path: Path | None = None) -> None:
        self.sim = os.urandom(4).hex()
        self.records: list[CallRecord] = []
        self.open = 0
        self.peak_open = 0
        self._file: TextIO | None = None
        if path is not None:
            self._file = path.open("a", buffering=1, encoding="utf-8")

    def new(self, wire: str, endpoint: str) -> CallRecord:
        """Number a call that has just arrived; `begin` must follow without a wait."""
        n = len(self.records) + 1
        record = CallRecord(n, self.sim, wire, endpoint, f"req_{self.sim}{n:08x}")
        record.started_at, record.started_mono = time.time(), time.monotonic()
        return record

    def begin(self, record: CallRecord) -> None:
        """Write the start line, once it is known what was asked."""
        self.records.append(record)
        self.open += 1
        self.peak_open = max(self.peak_open, self.open)
        self._write("start", record)

    def end(self, record: CallRecord, ended: str) -> None:
        """Write the end line."""
        self.open -= 1
        record.ended = ended
        record.ended_at, record.ended_mono = time.time(), time.monotonic()
        self._write("end", record)

    def close(self) -> None:
        """Close the file; the memory stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def summary(self) -> dict[str, Any]:
        """Counts over all calls; tokens, and pairs seen twice, over completed ones."""
        return {**summarize(self.records), "peak_open": self.peak_open, "sim": self.sim}

    def _write(self, event: str, record: CallRecord) -> None:
        if self._file is not None:
            line = json.dumps({"event": event, **record.as_dict()}, separators=(",", ":"))
            self._file.write(line + "\n")


def summarize(records: Iterable[CallRecord]) -> dict[str, Any]:
    """What a witness says first: how many calls, how they ended, what was billed."""
    counts: dict[str, Counter[str]] = {
        name: Counter() for name in ("ended", "wire", "status", "fault")
    }
    pairs: Counter[tuple[str, str]] = Counter()
    tokens: Counter[str] = Counter()
    for record in records:
        for name, counter in counts.items():
            counter[str(getattr(record, name))] += 1
        if record.ended == "completed":
            tokens.update({name: getattr(record, name) for name in _TOKENS})
            if record.job is not None:
                pairs[record.job, record.step or ""] += 1
    ended = counts.pop("ended")
    return {
        "calls": ended.total(),
        "open": ended["None"],
        **{name: ended[name] for name in ("completed", "cut", "refused")},
        **{f"by_{name}": _without_none(counter) for name, counter in counts.items()},
        **{name: tokens[name] for name in _TOKENS},
        "completed_twice": [list(pair) for pair, n in pairs.items() if n > 1],
    }


def read_log(path: Path) -> list[CallRecord]:
    """The calls of a log file in order of arrival; `ended` is None where no end came.

    A last line that a kill left unfinished is passed over.
    """
    calls: dict[tuple[str, int], CallRecord] = {}
    for line in _whole_lines(path):
        entry = json.loads(line)
        entry.pop("event")
        calls[entry["sim"], entry["n"]] = CallRecord(**entry)
    return list(calls.values())


def _whole_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield line


def _without_none(counter: Counter[str]) -> dict[str, int]:
    return {name: n for name, n in counter.items() if name != "None"}


_TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
