"""`/healthz`: the process answers. `/readyz`: and so does the ledger."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from gateway.answers import answer
from gateway.context import Here
from gateway.errors import ledger_down
from gateway.openapi import documented

router = APIRouter()


@router.get("/healthz", **documented("Health"))
async def healthz() -> Response:
    """Whether the process answers at all; looks at nothing."""
    return answer({"status": "ok"})


@router.get("/readyz", **documented("Health"))
async def readyz(here: Here) -> Response:
    """Whether jobs can be accepted: the ledger answers and can be written."""
    if here.stopping.is_set():
        raise ledger_down()
    async with here.rt.ledger.connection() as connection:
        if await connection.fetchval("select pg_is_in_recovery()"):
            raise ledger_down()
    return answer({"status": "ok"})
