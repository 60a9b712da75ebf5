"""`/v1/jobs`: submit one, look at one, list them."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime
from starlette.responses import Response

from chains.findings import did_you_mean, pointer
from gateway.answers import JobId, answer, for_caller
from gateway.auth import Caller, with_scope
from gateway.context import Gateway, Here
from gateway.errors import Problem, not_found
from gateway.explaining import explained
from gateway.following import wait_until_ended
from gateway.idempotency import header_of, key_of
from gateway.json_body import decode, read_body
from gateway.openapi import documented
from gateway.routes.events import event_response
from gateway.submission import job_request
from llmgine_workers.engine.cancel import cancel
from llmgine_workers.engine.submit import Submitted, submit
from llmgine_workers.ledger import shown, views
from llmgine_workers.ledger.connection import LedgerDown

MAX_WAIT_S = 60
_ENDS = ("succeeded", "failed", "cancelled")
_METADATA = "metadata."
_LISTED_BY = ("state", "chain", "batch", "created_after", "limit", "cursor")

Wait = Annotated[
    float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the job's end")
]
State = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled"]

router = APIRouter()


async def _wanted(
    request: Request,
    state: State | None = None,
    chain: Annotated[str | None, Query(max_length=200)] = None,
    batch: UUID | None = None,
    created_after: AwareDatetime | None = None,
) -> views.Wanted:
    _check_names([name for name, _ in request.query_params.multi_items()])
    metadata = {
        name.removeprefix(_METADATA): value
        for name, value in request.query_params.items()
        if name.startswith(_METADATA)
    }
    if any("\0" in text for text in (chain or "", *metadata, *metadata.values())):
        raise Problem("nul_not_allowed", "no filter can have the character U+0000")
    return views.Wanted(state, chain, batch, metadata, created_after)


def _check_names(names: list[str]) -> None:
    """A filter that is misspelled or doubled would show what nobody asked for."""
    findings = []
    for name in dict.fromkeys(names):
        if name not in _LISTED_BY and not name.startswith(_METADATA):
            detail = f"not a filter of this list{did_you_mean(name, _LISTED_BY)}"
            findings.append(_finding(name, "unknown_field", detail))
        elif names.count(name) > 1:
            findings.append(_finding(name, "invalid_input", "it is there twice"))
    if findings:
        raise Problem.of(findings)


def _finding(name: str, code: str, detail: str) -> dict[str, str]:
    return {"pointer": pointer(["query", name]), "code": code, "detail": detail}


@router.post("/v1/jobs", **documented("Job", (200, 202), body="JobSubmission"))
async def post_job(
    request: Request,
    here: Here,
    caller: Annotated[Caller, with_scope("submit")],
    wait: Wait = 0.0,
) -> Response:
    """Accept a job: 202, or 200 if it ended within `wait`; or its events, if accepted."""
    streaming = "text/event-stream" in request.headers.get("accept", "")
    if streaming:
        caller.need("read")
    header = header_of(request)
    body = decode(await read_body(request, here.rt.settings.gateway.max_body))
    key = key_of(header, body)
    submitted = await submit(here.rt, caller.tenant, job_request(body), key)
    headers = {"Location": f"/v1/jobs/{submitted.job}"}
    if submitted.replayed:
        headers["Idempotent-Replayed"] = "true"
    if streaming:
        return event_response(here, submitted.job, 0, headers)
    return await _accepted(here, caller, submitted, wait, headers)


@router.get("/v1/jobs", **documented("JobPage"))
async def list_jobs(
    here: Here,
    caller: Annotated[Caller, with_scope("read")],
    wanted: Annotated[views.Wanted, Depends(_wanted)],
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor`")] = None,
) -> Response:
    """The tenant's jobs, newest first; `metadata.KEY=VALUE` narrows the list as well."""
    page = await views.jobs(
        here.rt.ledger, caller.tenant, wanted, limit=limit, before=_job_cursor(cursor)
    )
    return answer({"data": page.data, "next_cursor": page.next_cursor})


@router.get("/v1/jobs/{job}", **documented("Job"))
async def get_job(
    job: JobId,
    here: Here,
    caller: Annotated[Caller, with_scope("read")],
    wait: Wait = 0.0,
) -> Response:
    """The job as it stands, or as it ended if it did so within `wait` seconds."""
    found = await views.job(here.rt.ledger, caller.tenant, job)
    if found is None:
        raise not_found()
    if wait and found["state"] not in _ENDS:
        await wait_until_ended(here.rt.ledger, here.rt.streams, job, wait, here.stopping)
        found = await views.job(here.rt.ledger, caller.tenant, job)
    return answer(found)


@router.post("/v1/jobs/{job}/cancel", **documented("Job", (200, 202)))
async def cancel_job(
    job: JobId, here: Here, caller: Annotated[Caller, with_scope("submit")]
) -> Response:
    """No more of this job: its calls are closed. 202; 200 if it was cancelled before."""
    is_first = await cancel(here.rt, caller.tenant, job)
    if is_first is None:
        raise not_found()
    return await _shown(here, caller, job, 202 if is_first else 200)


@router.get("/v1/jobs/{job}/explain", **documented("Explanation"))
async def explain_job(
    job: JobId, here: Here, caller: Annotated[Caller, with_scope("read")]
) -> Response:
    """Why the job is where it is, in a sentence for people."""
    found = await explained(here.rt, caller.tenant, job)
    if found is None:
        raise not_found()
    return answer(found)


async def _shown(here: Gateway, caller: Caller, job: UUID, status: int) -> Response:
    found = await views.job(here.rt.ledger, caller.tenant, job)
    if found is None:
        raise not_found()
    return answer(for_caller(found, caller), status)


async def _accepted(
    here: Gateway,
    caller: Caller,
    submitted: Submitted,
    wait: float,
    headers: dict[str, str],
) -> Response:
    job, made = submitted.job, submitted.made
    if made is not None and not wait and made.jobs[0].output is None:
        new = shown.new_job(made.jobs[0], made.at)  # as it was written: no need to ask
        return answer(for_caller(new, caller), 202, headers)
    try:
        if wait:
            await wait_until_ended(
                here.rt.ledger, here.rt.streams, job, wait, here.stopping
            )
        found = await views.job(here.rt.ledger, caller.tenant, job)
    except LedgerDown:
        detail = f"job {job} is accepted, but the ledger cannot be read now"
        raise Problem("ledger_unavailable", detail, headers=headers) from None
    if found is None:
        raise not_found()
    status = 200 if found["state"] in _ENDS else 202
    return answer(for_caller(found, caller), status, headers)


def _job_cursor(cursor: str | None) -> UUID | None:
    try:
        return UUID(cursor) if cursor is not None else None
    except ValueError:
        raise Problem("invalid_cursor", "use next_cursor of the page before") from None
