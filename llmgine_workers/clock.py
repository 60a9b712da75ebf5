"""Time, ids and durations: RFC 3339 in milliseconds, UUIDv7, `250ms 30s 5m 2h 7d`."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from uuid import UUID, uuid5

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)")


def now() -> datetime:
    """The current time, UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime | None) -> str | None:
    """A moment as the interface writes it: UTC with milliseconds and a Z."""
    if moment is None:
        return None
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def seconds(duration: str) -> float:
    """Seconds of `250ms 30s 5m 2h 7d`; ValueError says what is accepted."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"{duration!r} is not a duration like 250ms, 30s, 5m, 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]


def uuid7(at: float | None = None) -> UUID:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, then 74 random bits.

    `at` is seconds since the epoch; the current time if it is not given.
    """
    milliseconds = int((time.time() if at is None else at) * 1000)
    value = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def task_id(job: UUID, path: str, replays: int) -> UUID:
    """The Celery task's id: one over all waits and retries, a new one per replay."""
    return uuid5(job, f"{path}:{replays}")


def moment_of(uuid: UUID) -> datetime:
    """The moment a UUIDv7 was made, to the millisecond."""
    return datetime.fromtimestamp((uuid.int >> 80) / 1000, UTC)
