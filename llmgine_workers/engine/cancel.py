"""Cancel: nobody wants more of a job. Its calls are closed, their cost is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from llmgine_workers.engine import tell, upkeep
from llmgine_workers.errors import Refusal
from llmgine_workers.ledger import jobs, sweep

if TYPE_CHECKING:
    from llmgine_workers.runtime import Runtime

CANCELLED = "cancelled"


async def cancel(rt: Runtime, tenant: str, job: UUID) -> bool | None:
    """Row 15. True if this cancelled it, False if it was cancelled before, None if the
    tenant has no such job. Refusal `already_finished` if it comes to another end.

    Without running calls the job has ended when this returns; else its workers hear of
    it (by Redis within a second, by the beat within 3 s) and it ends with its last call.
    """
    while (stood := await jobs.standing(rt.ledger, tenant, job)) is not None:
        end = stood.ending or stood.state
        if end == CANCELLED:
            if stood.ending:  # the first word may have been lost with its process
                await tell.stop_calls(rt, job)
            return False
        if end != "active":
            raise Refusal("already_finished", f"the job has {end}")
        taken = await sweep.end_job(rt.ledger, job, CANCELLED, None)
        if taken:
            await upkeep.stop_calls(rt, taken)
            return True
    return None
