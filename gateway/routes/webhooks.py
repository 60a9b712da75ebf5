"""`/v1/jobs/{id}/webhook`: how a job's webhook was delivered, and once more."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from gateway.answers import JobId, answer
from gateway.auth import Caller, with_scope
from gateway.context import Here
from gateway.errors import not_found
from gateway.openapi import documented
from llmgine_workers.ledger import shown, webhooks
from llmgine_workers.ledger.connection import Ledger

router = APIRouter()


@router.get("/v1/jobs/{job}/webhook", **documented("WebhookPage"))
async def get_webhook(
    job: JobId, here: Here, caller: Annotated[Caller, with_scope("read")]
) -> Response:
    """What was sent for each run of the job, the newest first, with the last tries."""
    return answer({"data": await _of(here.rt.ledger, job, caller)})


@router.post("/v1/jobs/{job}/webhook", **documented("WebhookPage", (202,)))
async def redeliver_webhook(
    job: JobId, here: Here, caller: Annotated[Caller, with_scope("operate")]
) -> Response:
    """Send the newest one again, with the same id, for another 24 hours."""
    if not await webhooks.redeliver(here.rt.ledger, job, caller.tenant):
        raise not_found()
    return answer({"data": await _of(here.rt.ledger, job, caller)}, 202)


async def _of(ledger: Ledger, job: UUID, caller: Caller) -> list[dict[str, Any]]:
    found = await webhooks.of_job(ledger, job, caller.tenant)
    if not found:
        raise not_found()
    return [shown.webhook(row) for row in found]
