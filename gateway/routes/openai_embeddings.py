"""`/v1/embeddings`: OpenAI's call for vectors, as a durable job of one step."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.answers import answer
from gateway.auth import Caller, with_scope
from gateway.context import Here
from gateway.front import envelope
from gateway.front.calling import accepted, body_of, held
from gateway.front.embeddings import embeddings, embeddings_job, read
from gateway.front.options import job_options
from gateway.openapi import documented

router = APIRouter()


@router.post(
    "/v1/embeddings",
    **documented(
        "EmbeddingList", body="EmbeddingsRequest", refused="OpenAIErrorResponse"
    ),
)
async def post_embeddings(
    request: Request, here: Here, caller: Annotated[Caller, with_scope("submit")]
) -> Response:
    """Make a vector of each text; the answer comes when the job has ended."""
    caller.need("read")
    body = await body_of(request, here)
    asked = read(body)
    job = embeddings_job(here.rt, asked, job_options(request))
    call = await accepted(request, here, caller, body, job)
    end = await held(request, here, caller, call)
    if end.step is None:
        return envelope.failed(end.failure or {}, call.headers)
    return answer(embeddings(end.step, asked.encoding_format), headers=call.headers)
