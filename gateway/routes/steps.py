"""`/v1/jobs/{id}/steps`: what a job did, and how one step went about it."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from gateway.answers import JobId, answer
from gateway.auth import Caller, with_scope
from gateway.context import Here
from gateway.errors import Problem, not_found
from gateway.openapi import documented
from llmgine_workers.ledger import views

_PATH = re.compile(r"[A-Za-z0-9_.-]{1,1000}")

router = APIRouter()


@router.get("/v1/jobs/{job}/steps", **documented("StepPage"))
async def list_steps(
    job: JobId,
    here: Here,
    caller: Annotated[Caller, with_scope("read")],
    limit: Annotated[int, Query(ge=1, le=200)] = 200,
    cursor: str | None = None,
) -> Response:
    """The steps that became ready so far, in that order, without their attempts."""
    if cursor is not None and not _PATH.fullmatch(cursor):
        raise _bad_cursor()
    page = await views.steps(
        here.rt.ledger, caller.tenant, job, limit=limit, after=cursor
    )
    if not page.data:
        if await views.job(here.rt.ledger, caller.tenant, job) is None:
            raise not_found()
        if cursor is not None:
            raise _bad_cursor()
    return answer({"data": page.data, "next_cursor": page.next_cursor})


@router.get("/v1/jobs/{job}/steps/{path}", **documented("Step"))
async def get_step(
    job: JobId, path: str, here: Here, caller: Annotated[Caller, with_scope("read")]
) -> Response:
    """One step with its attempts; with scope `payloads` also its rendered request."""
    shown = None
    if _PATH.fullmatch(path):
        shown = await views.step(here.rt.ledger, caller.tenant, job, path)
    if shown is None:
        raise not_found()
    if "payloads" not in caller.scopes:
        shown["request"] = None
    return answer(shown)


def _bad_cursor() -> Problem:
    return Problem("invalid_cursor", "use next_cursor of the page before")
