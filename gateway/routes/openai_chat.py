"""`/v1/chat/completions`: OpenAI's call, as a durable job of one step."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from gateway.answers import answer
from gateway.auth import Caller, with_scope
from gateway.context import Here
from gateway.front import envelope
from gateway.front.calling import accepted, body_of, held
from gateway.front.chat_answer import Chunks, completion
from gateway.front.chat_job import chat_job
from gateway.front.chat_stream import streamed
from gateway.front.options import job_options
from gateway.front.parameters import read
from gateway.openapi import documented
from gateway.routes.events import HEADERS, MEDIA_TYPE

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    **documented(
        "ChatCompletion", body="ChatCompletionRequest", refused="OpenAIErrorResponse"
    ),
)
async def post_chat_completion(
    request: Request, here: Here, caller: Annotated[Caller, with_scope("submit")]
) -> Response:
    """Answer a conversation: whole when its job has ended, or streamed while it runs."""
    caller.need("read")
    body = await body_of(request, here)
    asked = read(body)
    job = chat_job(here.rt, asked, job_options(request))
    call = await accepted(request, here, caller, body, job)
    if asked.stream:
        options = asked.stream_options
        chunks = Chunks(call.job, asked.model, bool(options and options.include_usage))
        return StreamingResponse(
            streamed(here, caller.tenant, call.job, chunks),
            headers={**HEADERS, **call.headers},
            media_type=MEDIA_TYPE,
        )
    end = await held(request, here, caller, call)
    if end.step is None:
        return envelope.failed(end.failure or {}, call.headers)
    return answer(completion(call.job, end.step), headers=call.headers)
