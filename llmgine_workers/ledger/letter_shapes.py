"""Rows of letters, groups and replays as the interface shows them (section 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from llmgine_workers.clock import rfc3339
from llmgine_workers.ledger import shown


def public(row: Mapping[str, Any]) -> dict[str, Any]:
    """A letter."""
    raw = row["raw"]
    return {
        **{key: _text(value) for key, value in row.items() if key not in ("cost", "raw")},
        "cost_usd": shown.usd(row["cost"]),
        "raw": None if raw is None else raw.decode("utf-8", "backslashreplace"),
    }


def whole(
    row: Mapping[str, Any], attempts: Sequence[asyncpg.Record], request: str | None
) -> dict[str, Any]:
    """A letter with the calls that led to it, and the request its step had made."""
    return {
        **public(row),
        "attempts": [{"step": one["path"], **shown.attempt(one)} for one in attempts],
        "request": shown.value(request),
    }


def group(row: Mapping[str, Any]) -> dict[str, Any]:
    """Letters of one fingerprint."""
    return {key: _text(value) for key, value in row.items()}


def replay(row: Mapping[str, Any]) -> dict[str, Any]:
    """A replay and how far it has come."""
    names = ("id", "state", "reason", "total", "pending", "replayed", "succeeded",
             "failed", "cancelled", "refused", "calls", "rate", "canary", "stop_if_fail",
             "asked", "edit", "asked_by", "created_at", "finished_at")  # fmt: skip
    shape = {name: _text(row[name]) for name in names}
    return {**shape, "estimated_usd": shown.usd(row["estimated"])}


def _text(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return rfc3339(value) if hasattr(value, "astimezone") else value
