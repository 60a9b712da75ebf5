"""`/v1/jobs/{id}/events`: what happens to a job, as it happens, resumable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from gateway.answers import JobId
from gateway.auth import Caller, with_scope
from gateway.context import Gateway, Here
from gateway.errors import not_found
from gateway.event_stream import frames, is_all_told, with_pings
from gateway.following import NEWEST
from gateway.openapi import documented
from llmgine_workers.ledger import views

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Number = Annotated[int, Query(ge=0, le=NEWEST, description="The last event you have")]
LastEventId = Annotated[int | None, Header(ge=0, le=NEWEST)]

router = APIRouter()


@router.get("/v1/jobs/{job}/events", **documented(None, (200, 204), MEDIA_TYPE))
async def get_events(
    job: JobId,
    here: Here,
    caller: Annotated[Caller, with_scope("read")],
    after: Number = 0,
    last_event_id: LastEventId = None,
) -> Response:
    """History, then what happens live, until the job ends; 204 if all of it is known."""
    ledger, streams = here.rt.ledger, here.rt.streams
    if await views.job(ledger, caller.tenant, job) is None:
        raise not_found()
    # A browser that reconnects repeats the address and adds how far it came.
    seen = after if last_event_id is None else last_event_id
    if await is_all_told(ledger, streams, job, seen):
        return Response(status_code=204)
    return event_response(here, job, seen, {})


def event_response(
    here: Gateway, job: UUID, after: int, headers: Mapping[str, str]
) -> Response:
    """The stream of a job after that event."""
    source = frames(here.rt.ledger, here.rt.streams, job, after)
    body = with_pings(source, here.stopping)
    return StreamingResponse(body, headers={**HEADERS, **headers}, media_type=MEDIA_TYPE)
