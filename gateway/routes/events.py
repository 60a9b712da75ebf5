"""`/v1/jobs/{id}/events`: what happens to a job, as it happens, resumable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket

from gateway.answers import JobId, answer
from gateway.auth import SCHEME, Caller, with_scope
from gateway.context import Gateway, Here
from gateway.errors import not_found
from gateway.event_stream import as_sse, frames, is_all_told, with_pings
from gateway.following import NEWEST
from gateway.openapi import documented
from gateway.stream_tokens import issue, with_scope_or_token
from gateway.websocket import ALL_TOLD, relay
from llmgine_workers import clock
from llmgine_workers.ledger import views

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Number = Annotated[int, Query(ge=0, le=NEWEST, description="The last event you have")]
LastEventId = Annotated[int | None, Header(ge=0, le=NEWEST)]

router = APIRouter()


@router.get(
    "/v1/jobs/{job}/events",
    dependencies=[Depends(SCHEME)],
    **documented(None, (200, 204), MEDIA_TYPE),
)
async def get_events(
    job: JobId,
    here: Here,
    caller: Annotated[Caller, with_scope_or_token("read")],
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


@router.websocket("/v1/jobs/{job}/events")
async def follow_events(
    socket: WebSocket,
    job: JobId,
    here: Here,
    caller: Annotated[Caller, with_scope_or_token("read")],
    after: Number = 0,
) -> None:
    """The same by upgrade; a reader that knows all is closed at once."""
    ledger, streams = here.rt.ledger, here.rt.streams
    if await views.job(ledger, caller.tenant, job) is None:
        raise not_found()
    if await is_all_told(ledger, streams, job, after):
        await socket.accept()
        await socket.close(ALL_TOLD)
        return
    await relay(socket, frames(ledger, streams, job, after), here.stopping)


@router.post("/v1/jobs/{job}/stream-token", **documented("StreamToken"))
async def make_stream_token(
    job: JobId, here: Here, caller: Annotated[Caller, with_scope("read")]
) -> Response:
    """A token that opens the events of this job for 5 minutes, for browsers."""
    if await views.job(here.rt.ledger, caller.tenant, job) is None:
        raise not_found()
    token, ends = await issue(here.keyring, caller, job)
    return answer(
        {
            "token": token,
            "expires_at": clock.rfc3339(ends),
            "url": f"/v1/jobs/{job}/events?token={token}",
        },
        headers={"Cache-Control": "no-store"},
    )


def event_response(
    here: Gateway, job: UUID, after: int, headers: Mapping[str, str]
) -> Response:
    """The stream of a job after that event."""
    source = frames(here.rt.ledger, here.rt.streams, job, after)
    body = with_pings(as_sse(source), here.stopping)
    return StreamingResponse(body, headers={**HEADERS, **headers}, media_type=MEDIA_TYPE)
