"""`/v1/models`: what can be asked here, as OpenAI lists it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import Response

from gateway.answers import answer
from gateway.auth import Caller, with_scope
from gateway.context import Here
from gateway.errors import not_found
from gateway.front.models import listed
from gateway.openapi import documented

router = APIRouter()


@router.get("/v1/models", **documented("ModelList", refused="OpenAIErrorResponse"))
async def list_models(
    here: Here, caller: Annotated[Caller, with_scope("read")]
) -> Response:
    """Aliases, and every model with a known price whose provider is enabled."""
    return answer({"object": "list", "data": await listed(here.rt)})


@router.get(
    "/v1/models/{model:path}", **documented("Model", refused="OpenAIErrorResponse")
)
async def get_model(
    model: str, here: Here, caller: Annotated[Caller, with_scope("read")]
) -> Response:
    """One of them."""
    for one in await listed(here.rt):
        if one["id"] == model:
            return answer(one)
    raise not_found()
