"""`/v1/pools`: who works, on how much, and what holds it up."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import Response

from gateway import pools
from gateway.answers import answer
from gateway.auth import Caller, with_scope
from gateway.context import Here
from gateway.openapi import documented

router = APIRouter()


@router.get("/v1/pools", **documented("PoolPage"))
async def list_pools(
    here: Here, caller: Annotated[Caller, with_scope("operate")]
) -> Response:
    """Every pool, over all tenants; its steps as they were counted at `counted_at`."""
    return answer({"data": await pools.listed(here.rt), "next_cursor": None})
