"""Rows of the ledger as the public shapes of interface section 3."""

from __future__ import annotations

from typing import Any

import asyncpg
import orjson

from llmgine_workers.clock import rfc3339
from llmgine_workers.ledger.records import CLASSES

JOB_STATES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
STEP_STATES = (
    "queued", "running", "waiting", "succeeded", "failed", "skipped", "cancelled",
)  # fmt: skip
TOKENS = (
    "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip


def usd(micro_dollars: int | None) -> float | None:
    """Dollars as the interface shows them; None is unknown."""
    return None if micro_dollars is None else micro_dollars / 1_000_000


def job(row: asyncpg.Record) -> dict[str, Any]:
    """A job as interface section 3 shows it."""
    self_link = f"/v1/jobs/{row['id']}"
    return {
        "id": str(row["id"]),
        "tenant": row["tenant"],
        "batch": str(row["batch"]) if row["batch"] else None,
        "forked_from": None,
        "replays": row["run"],
        "dead_letter": str(row["dead_letter"]) if row["dead_letter"] else None,
        "chain": {"name": row["chain_name"], "version": row["chain_version"]},
        "metadata": row["metadata"],
        "simulated": row["simulated"],
        "state": row["shown"],
        "waiting": _waiting(row) if row["shown"] == "waiting" else None,
        "inputs": value(row["inputs"]),
        "output": value(row["output"]),
        "error": row["failure"] if row["shown"] == "failed" else None,
        "progress": _progress(row),
        "usage": usage(row),
        "cost_usd": cost(row),
        "possible_duplicate_usd": None if row["doubt_unpriced"] else usd(row["doubt"]),
        "options": _options(row),
        "created_at": rfc3339(row["created_at"]),
        "started_at": rfc3339(row["started_at"]),
        "finished_at": rfc3339(row["finished_at"]),
        "deadline_at": rfc3339(row["expires_at"]),
        "links": {
            "self": self_link,
            "steps": f"{self_link}/steps",
            "events": f"{self_link}/events",
        },
    }


def batch(row: asyncpg.Record) -> dict[str, Any]:
    """A batch as interface section 2 shows it."""
    return {
        "id": str(row["id"]),
        "total": row["total"],
        "counts": {state: row[state] for state in JOB_STATES},
        "cost_usd": cost(row),
        "created_at": rfc3339(row["created_at"]),
    }


def _progress(row: asyncpg.Record) -> dict[str, int]:
    """`total` is of the steps known by now, where maps and loops make more of them."""
    counts = {state: row[state] for state in STEP_STATES}
    return {"total": max(row["steps_total"], sum(counts.values())), **counts}


def _options(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "priority": CLASSES[row["class"]],
        "timeout_s": row["timeout_s"],
        "max_attempts": row["max_attempts"],
        "max_cost_usd": usd(row["max_cost"]),
        "stream": row["stream"],
        "webhook": None,
    }


def step(row: asyncpg.Record) -> dict[str, Any]:
    """A step without its attempts and its request."""
    stored = value(row["output"]) or {}
    unwell = row["state"] in ("failed", "waiting")
    return {
        "path": row["path"],
        "kind": row["kind"],
        "pool": row["pool"],
        "state": row["state"],
        "waiting": _waiting(row) if row["state"] == "waiting" else None,
        "fence": row["fence"],
        "crashes": row["crashes"],
        "error": row["failure"] if unwell else None,
        "output": stored.get("output"),
        "text": stored.get("text"),
        "finish_reason": row["finish_reason"],
        "model": row["model"],
        "why": row["why"],
        "usage": usage(row),
        "cost_usd": cost(row),
        "simulated": row["made_up"],
    }


def attempt(row: asyncpg.Record) -> dict[str, Any]:
    """One physical call."""
    return {
        "id": str(row["id"]),
        "n": row["n"],
        "state": row["state"],
        "model": row["model"],
        "status": row["status"],
        "request_id": row["request_id"],
        "error": row["failure"],
        "cost_usd": usd(row["cost"]),
        "started_at": rfc3339(row["started_at"]),
        "first_token_at": rfc3339(row["first_token_at"]),
        "finished_at": rfc3339(row["finished_at"]),
    }


def _waiting(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "reason": row["reason"],
        "detail": row["detail"],
        "since": rfc3339(row["waiting_since"]),
        "until": rfc3339(row["wake_at"]),
    }


def usage(row: asyncpg.Record) -> dict[str, int]:
    """The sums over attempts."""
    return {"calls": row["model_calls"], **{name: row[name] for name in TOKENS}}


def cost(row: asyncpg.Record) -> float | None:
    """In dollars; None while a part of it is unknown."""
    return None if row["unpriced"] else usd(row["cost"])


def value(body: str | None) -> Any:
    """Stored JSON; None also where retention has taken it."""
    return None if body is None else orjson.loads(body)
