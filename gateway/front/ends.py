"""How a job of one step ended: its step, or why there is no answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from llmgine_workers.ledger import views
from llmgine_workers.ledger.connection import Ledger, LedgerDown

_FORGOTTEN = {"code": "not_found", "message": "the answer is no longer kept"}
_CANCELLED = {"code": "cancelled", "message": "the job was cancelled"}


@dataclass(frozen=True)
class End:
    """`step` of a job that succeeded, else `failure` with a code and a message."""

    step: Mapping[str, Any] | None = None
    failure: Mapping[str, Any] | None = None


async def end_of(ledger: Ledger, tenant: str, job: UUID) -> End | None:
    """The end of a job, None if it has none yet: one query, one more for a failure."""
    page = await views.steps(ledger, tenant, job, limit=1, after=None)
    step = page.data[0] if page.data else None
    if step is not None and step["state"] == "succeeded":
        if step["output"] is None and step["text"] is None:
            return End(failure=_FORGOTTEN)
        return End(step=step)
    if step is not None and step["state"] not in ("failed", "cancelled"):
        return None
    shown = await views.job(ledger, tenant, job)
    if shown is None or shown["state"] not in ("failed", "cancelled"):
        return None
    return End(failure=shown["error"] or (step or {}).get("error") or _CANCELLED)


async def end_if_known(ledger: Ledger, tenant: str, job: UUID) -> End | None:
    """None also while the ledger is away: somebody will ask again."""
    try:
        return await end_of(ledger, tenant, job)
    except LedgerDown:
        return None
