"""One call of OpenAI's interface: its job is submitted, and its request is held."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from starlette.requests import Request

from gateway.auth import Caller
from gateway.context import Gateway
from gateway.errors import Problem
from gateway.following import wait_until_ended
from gateway.front.ends import End, end_of
from gateway.front.envelope import NO_RETRY
from gateway.front.options import client_waits_s
from gateway.idempotency import header_of, key_of
from gateway.json_body import decode, read_body
from llmgine_workers.engine.submit import JobRequest, submit
from llmgine_workers.ledger.connection import LedgerDown

GRACE_S = 60.0
"""A job past its time-out ends within a sweep; longer than this nobody waits for it."""


@dataclass(frozen=True)
class Call:
    """An accepted job, and the headers that name it in every answer."""

    job: UUID
    headers: dict[str, str]
    hold_s: float
    has_key: bool


async def body_of(request: Request, here: Gateway) -> Any:
    """The request's JSON."""
    return decode(await read_body(request, here.rt.settings.gateway.max_body))


async def accepted(
    request: Request, here: Gateway, caller: Caller, body: Any, asked: JobRequest
) -> Call:
    """Submit what a body asks for; Problem or Refusal says why there is no job."""
    header = header_of(request)
    made = await submit(here.rt, caller.tenant, asked, key_of(header, body))
    headers = {
        "Llmgine-Job": str(made.job),
        "Link": f'</v1/jobs/{made.job}>; rel="status"',
    }
    if made.replayed:
        headers["Idempotent-Replayed"] = "true"
    longest = asked.options.timeout_s + GRACE_S
    hold_s = min(client_waits_s(request) or longest, longest)
    return Call(made.job, headers, hold_s, header is not None)


async def held(request: Request, here: Gateway, caller: Caller, call: Call) -> End:
    """The job's end; Problem if it comes too late for this request.

    The job goes on in any case, also when its client has gone.
    """
    try:
        await _wait(request, here, call)
        end = await end_of(here.rt.ledger, caller.tenant, call.job)
    except LedgerDown:
        detail = f"job {call.job} is accepted, but the ledger cannot be read now"
        raise Problem("ledger_unavailable", detail, headers=_again(call)) from None
    if end is None:
        raise Problem("not_finished", not_finished(call.job), headers=_again(call))
    return end


def not_finished(job: UUID) -> str:
    """Where to look for an answer that comes later."""
    return f"job {job} has not ended yet and goes on: read it at /v1/jobs/{job}"


async def _wait(request: Request, here: Gateway, call: Call) -> None:
    ended = asyncio.ensure_future(
        wait_until_ended(
            here.rt.ledger, here.rt.streams, call.job, call.hold_s, here.stopping
        )
    )
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
        gone.cancel()
        await asyncio.gather(ended, gone, return_exceptions=True)


def _again(call: Call) -> dict[str, str]:
    """With a key a client may ask again; without one it would make a second job."""
    return call.headers if call.has_key else {**call.headers, **NO_RETRY}
