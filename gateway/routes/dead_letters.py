"""`/v1/dead-letters`: what failed, one by one and in groups, and putting it away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from gateway.answers import LetterId, answer
from gateway.auth import Caller, with_scope
from gateway.context import Gateway, Here
from gateway.errors import Problem, not_found
from gateway.json_body import decode, read_body
from gateway.letter_requests import (
    GroupQuery,
    LetterQuery,
    letter_choice,
    tenant_of,
)
from gateway.openapi import documented
from llmgine_workers import dead_letters
from llmgine_workers.ledger import letters

router = APIRouter()

Operator = Annotated[Caller, with_scope("operate")]


@router.get("/v1/dead-letters", **documented("LetterPage"))
async def list_letters(
    here: Here, caller: Operator, query: Annotated[LetterQuery, Query()]
) -> Response:
    """Dead letters, newest first; with `admin` of all tenants, and raw ones."""
    found = await dead_letters.listed(
        here.rt, query.wanted(caller), query.limit + 1, _cursor(query.cursor)
    )
    data = found[: query.limit]
    more = len(found) > query.limit
    return answer({"data": data, "next_cursor": data[-1]["id"] if more else None})


@router.get("/v1/dead-letters/{letter}", **documented("WholeLetter"))
async def get_letter(letter: LetterId, here: Here, caller: Operator) -> Response:
    """One letter (by its id or its job's), its calls, and with `payloads` the request."""
    found = await dead_letters.show(here.rt, letter, tenant_of(caller, None))
    if found is None:
        raise not_found()
    if "payloads" not in caller.scopes:
        found["request"] = None
    return answer(found)


@router.get("/v1/dead-letter-groups", **documented("GroupPage"))
async def list_groups(
    here: Here, caller: Operator, query: Annotated[GroupQuery, Query()]
) -> Response:
    """Letters that say the same, the latest group first."""
    found = await dead_letters.groups(here.rt, query.wanted(caller), query.limit)
    return answer({"data": found, "next_cursor": None})


@router.post("/v1/dead-letters/discard", **documented("Closed", body="LetterChoice"))
async def discard(request: Request, here: Here, caller: Operator) -> Response:
    """Resolve letters without running anything."""
    return await _close(request, here, caller, "resolved")


@router.post("/v1/dead-letters/ignore", **documented("Closed", body="LetterChoice"))
async def ignore(request: Request, here: Here, caller: Operator) -> Response:
    """Put letters out of sight; a group is open again with its next letter."""
    return await _close(request, here, caller, "ignored")


async def _close(request: Request, here: Gateway, caller: Caller, state: str) -> Response:
    body = decode(await read_body(request, here.rt.settings.gateway.max_body))
    chosen = letter_choice(body).chosen(caller)
    tenant = tenant_of(caller, None)
    which = chosen.wanted if chosen.ids is None else chosen.ids
    done = await dead_letters.close(
        here.rt, which, state, f"key of {caller.tenant}", tenant
    )
    if not done and chosen.ids is not None:
        await _check_known(here, chosen.ids, tenant)
    return answer({"closed": len(done), "state": state})


async def _check_known(here: Gateway, ids: Sequence[UUID], tenant: str | None) -> None:
    for one in ids:
        if await letters.found(here.rt.ledger, one, tenant) is not None:
            raise Problem("already_resolved", "these letters are closed already")
    raise not_found()


def _cursor(cursor: str | None) -> UUID | None:
    try:
        return UUID(cursor) if cursor is not None else None
    except ValueError:
        raise Problem("invalid_cursor", "use next_cursor of the page before") from None
