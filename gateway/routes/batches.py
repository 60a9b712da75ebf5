"""`/v1/batches`: up to 1,000 jobs in one request, all of them or none."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.answers import BatchId, answer
from gateway.auth import Caller, with_scope
from gateway.context import Gateway, Here
from gateway.errors import Problem, not_found
from gateway.idempotency import header_of, key_of
from gateway.json_body import decode, read_body
from gateway.openapi import documented
from gateway.submission import batch_requests
from llmgine_workers.engine.submit import JobRequest, Key, SubmittedBatch, submit_batch
from llmgine_workers.ledger import shown, views
from llmgine_workers.ledger.connection import LedgerDown

BODIES = 16
"""How many times `gateway.max_body` a batch may have: 16 KiB per job by default."""

router = APIRouter()


@router.post("/v1/batches", **documented("Batch", (202, 200), body="BatchSubmission"))
async def post_batch(
    request: Request, here: Here, caller: Annotated[Caller, with_scope("submit")]
) -> Response:
    """Accept all of the jobs or none; `Idempotency-Key` covers the whole batch."""
    header = header_of(request)
    body = await read_body(request, BODIES * here.rt.settings.gateway.max_body)
    async with here.batches:
        # In a thread, or every other request would wait for so much of a body.
        requests, key = await asyncio.to_thread(_asked, body, header)
        submitted = await submit_batch(here.rt, caller.tenant, requests, key)
    headers = {"Location": f"/v1/batches/{submitted.batch}"}
    if submitted.replayed:
        headers["Idempotent-Replayed"] = "true"
    return await _accepted(here, caller, submitted, headers)


@router.get("/v1/batches/{batch}", **documented("Batch"))
async def get_batch(
    batch: BatchId, here: Here, caller: Annotated[Caller, with_scope("read")]
) -> Response:
    """How many jobs of the batch are where, and what they cost so far."""
    found = await views.batch(here.rt.ledger, caller.tenant, batch)
    if found is None:
        raise not_found()
    return answer(found)


async def _accepted(
    here: Gateway, caller: Caller, submitted: SubmittedBatch, headers: dict[str, str]
) -> Response:
    batch, made = submitted.batch, submitted.made
    if made is not None:  # as it was written: no need to ask
        return answer(shown.new_batch(batch, len(made.jobs), made.at), 202, headers)
    try:
        found = await views.batch(here.rt.ledger, caller.tenant, batch)
    except LedgerDown:
        detail = f"batch {batch} is accepted, but the ledger cannot be read now"
        raise Problem("ledger_unavailable", detail, headers=headers) from None
    if found is None:
        raise not_found()
    return answer(found, 202 if _is_unfinished(found) else 200, headers)


def _asked(body: bytes, header: str | None) -> tuple[list[JobRequest], Key | None]:
    document = decode(body)
    return batch_requests(document), key_of(header, document)


def _is_unfinished(batch: dict[str, Any]) -> bool:
    return any(batch["counts"][state] for state in ("queued", "running", "waiting"))
