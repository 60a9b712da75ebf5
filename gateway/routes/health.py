"""`/healthz`: the process answers. `/readyz`: and so does the ledger."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from gateway.answers import answer
from gateway.context import Here
from gateway.errors import ledger_down
from gateway.openapi import documented
from llmgine_workers.ledger import views

router = APIRouter()


@router.get("/healthz", **documented("Health"))
async def healthz() -> Response:
    """Whether the process answers at all; looks at nothing."""
    return answer({"status": "ok"})


@router.get("/readyz", **documented("Health"))
async def readyz(here: Here) -> Response:
    """Whether jobs can be accepted: the ledger answers and can be written."""
    if here.stopping.is_set() or not await views.can_accept_jobs(here.rt.ledger):
        raise ledger_down()
    return answer({"status": "ok"})
