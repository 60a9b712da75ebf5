"""Rows of the ledger as the public shapes of interface section 3."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import orjson

from llmgine_workers.clock import rfc3339
from llmgine_workers.ledger.records import CLASSES, NewJob

Row: TypeAlias = asyncpg.Record | Mapping[str, Any]

JOB_STATES = ("queued", "running", "waiting", "succeeded", "failed", "cancelled")
STEP_STATES = (
    "queued", "running", "waiting", "succeeded", "failed", "skipped", "cancelled",
)  # fmt: skip
TOKENS = (
    "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip


_NOT_YET = (
    "dead_letter", "inputs", "output", "failure", "started_at", "finished_at",
    "unpriced", "doubt_unpriced",
)  # fmt: skip
_NOTHING = ("run", "model_calls", "cost", "doubt")
_FREE = {"cost": 0, "unpriced": False}


def usd(micro_dollars: int | None) -> float | None:
    """Dollars as the interface shows them; None is unknown."""
    return None if micro_dollars is None else micro_dollars / 1_000_000


def job(row: Row) -> dict[str, Any]:
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


def new_job(made: NewJob, at: datetime) -> dict[str, Any]:
    """A job as it was written at that moment, without asking for it again.

    `inputs` is a fragment that only orjson can write.
    """
    row = {
        **dict.fromkeys(_NOT_YET),
        **dict.fromkeys(
            (*STEP_STATES, *TOKENS, "run", "model_calls", "cost", "doubt"), 0
        ),
        "id": made.id,
        "tenant": made.tenant,
        "batch": made.batch,
        "chain_name": made.chain_name,
        "chain_version": made.chain_version,
        "metadata": dict(made.metadata),
        "simulated": made.simulated,
        "shown": "queued",
        "steps_total": made.steps_total,
        "queued": len(made.steps),
        "skipped": len(made.skipped),
        "class": made.priority,
        "timeout_s": made.timeout_s,
        "max_attempts": made.max_attempts,
        "max_cost": made.max_cost,
        "stream": made.stream,
        "webhook": made.webhook,
        "created_at": at,
        "expires_at": at + timedelta(seconds=made.timeout_s),
    }
    return {**job(row), "inputs": orjson.Fragment(made.inputs)}


def new_batch(batch_id: UUID, total: int, at: datetime) -> dict[str, Any]:
    """A batch as it was written at that moment."""
    counts = {**dict.fromkeys(JOB_STATES, 0), "queued": total}
    return batch({"id": batch_id, "total": total, **counts, **_FREE, "created_at": at})


def batch(row: Row) -> dict[str, Any]:
    """A batch as interface section 2 shows it."""
    return {
        "id": str(row["id"]),
        "total": row["total"],
        "counts": {state: row[state] for state in JOB_STATES},
        "cost_usd": cost(row),
        "created_at": rfc3339(row["created_at"]),
    }


def _progress(row: Row) -> dict[str, int]:
    """`total` is of the steps known by now, where maps and loops make more of them."""
    counts = {state: row[state] for state in STEP_STATES}
    return {"total": max(row["steps_total"], sum(counts.values())), **counts}


def _options(row: Row) -> dict[str, Any]:
    return {
        "priority": CLASSES[row["class"]],
        "timeout_s": row["timeout_s"],
        "max_attempts": row["max_attempts"],
        "max_cost_usd": usd(row["max_cost"]),
        "stream": row["stream"],
        "webhook": row["webhook"],
    }


def step(row: Row) -> dict[str, Any]:
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


def webhook(row: Row) -> dict[str, Any]:
    """What is owed, or was told, at the end of one run."""
    return {
        "run": row["run"],
        "url": row["url"],
        "state": row["state"],
        "tries": row["tries"],
        "next_at": rfc3339(row["next_at"]) if row["state"] == "pending" else None,
        "give_up_at": rfc3339(row["give_up_at"]),
        "created_at": rfc3339(row["created_at"]),
        "finished_at": rfc3339(row["finished_at"]),
        "log": row["log"],
    }


def attempt(row: Row) -> dict[str, Any]:
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


def _waiting(row: Row) -> dict[str, Any]:
    return {
        "reason": row["reason"],
        "detail": row["detail"],
        "since": rfc3339(row["waiting_since"]),
        "until": rfc3339(row["wake_at"]),
    }


def usage(row: Row) -> dict[str, int]:
    """The sums over attempts."""
    return {"calls": row["model_calls"], **{name: row[name] for name in TOKENS}}


def cost(row: Row) -> float | None:
    """In dollars; None while a part of it is unknown."""
    return None if row["unpriced"] else usd(row["cost"])


def value(body: str | None) -> Any:
    """Stored JSON; None also where retention has taken it."""
    return None if body is None else orjson.loads(body)
