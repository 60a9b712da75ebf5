"""Time and ids: RFC 3339 in milliseconds, UUIDv7 for rows, UUIDv5 for tasks."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from uuid import UUID, uuid5


def now() -> datetime:
    """The current time, UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime | None) -> str | None:
    """A moment as the interface writes it: UTC with milliseconds and a Z."""
    if moment is None:
        return None
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def uuid7(at: float | None = None) -> UUID:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, then 74 random bits.

    `at` is seconds since the epoch; the current time if it is not given.
    """
    milliseconds = int((time.time() if at is None else at) * 1000)
    value = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def before_now() -> UUID:
    """Below every UUIDv7 of this millisecond and later, above all earlier ones."""
    return UUID(int=int(time.time() * 1000) << 80)


def made_at(id: UUID) -> datetime:
    """When a UUIDv7 was made (UTC, to the millisecond)."""
    return datetime.fromtimestamp((id.int >> 80) / 1000, UTC)


def task_id(job: UUID, path: str, replays: int) -> UUID:
    """The Celery task's id: one over all waits and retries, a new one per replay."""
    return uuid5(job, f"{path}:{replays}")


def moment_of(uuid: UUID) -> datetime:
    """The moment a UUIDv7 was made, to the millisecond."""
    return datetime.fromtimestamp((uuid.int >> 80) / 1000, UTC)
