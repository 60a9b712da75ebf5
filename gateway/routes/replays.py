"""`/v1/replays`: run failed jobs again, as an action that outlives its request."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.answers import ReplayId, answer
from gateway.auth import Caller, with_scope
from gateway.context import Gateway, Here
from gateway.errors import Problem, not_found
from gateway.json_body import decode, read_body
from gateway.letter_requests import replay_submission, tenant_of
from gateway.openapi import documented
from llmgine_workers.engine import replays
from llmgine_workers.ledger import letter_shapes
from llmgine_workers.ledger import replays as ledger_replays

router = APIRouter()

Operator = Annotated[Caller, with_scope("operate")]


@router.post("/v1/replays", **documented("Replay", (202, 200), body="ReplaySubmission"))
async def post_replay(request: Request, here: Here, caller: Operator) -> Response:
    """Begin a replay: 202; with `dry_run` only what it would be: 200."""
    body = decode(await read_body(request, here.rt.settings.gateway.max_body))
    submission = replay_submission(body)
    asked = submission.asked(caller)
    if submission.dry_run:
        return answer(_would_be(asked, await replays.look(here.rt, asked)))
    id_ = await replays.start(here.rt, asked)
    shown = await _shown(here, caller, id_)
    return answer(shown, 202, {"Location": f"/v1/replays/{id_}"})


@router.get("/v1/replays/{replay}", **documented("Replay"))
async def get_replay(replay: ReplayId, here: Here, caller: Operator) -> Response:
    """A replay, and how far it has come."""
    return answer(await _shown(here, caller, replay))


@router.post("/v1/replays/{replay}/abort", **documented("Replay"))
async def abort_replay(replay: ReplayId, here: Here, caller: Operator) -> Response:
    """Start no more of its jobs; those it has started go on."""
    before = await _shown(here, caller, replay)
    if not await replays.abort(here.rt, replay, f"key of {caller.tenant}"):
        raise Problem("already_finished", f"the replay is {before['state']}")
    return answer(await _shown(here, caller, replay))


async def _shown(here: Gateway, caller: Caller, replay: UUID) -> dict[str, Any]:
    row = await ledger_replays.found(here.rt.ledger, replay, tenant_of(caller, None))
    if row is None:
        raise not_found()
    return letter_shapes.replay(row)


def _would_be(asked: replays.Asked, found: ledger_replays.Extent) -> dict[str, Any]:
    none = dict.fromkeys(("replayed", "succeeded", "failed", "cancelled"), 0)
    return letter_shapes.replay({
        **none, "id": None, "state": "dry_run", "reason": None, "total": found.total,
        "pending": found.total - found.resolved, "refused": found.resolved,
        "calls": found.calls, "estimated": found.estimated, "rate": asked.rate,
        "canary": asked.canary, "stop_if_fail": asked.stop_if_fail,
        "asked": asked.record, "edit": asked.edit, "asked_by": asked.by,
        "created_at": None, "finished_at": None,
    })  # fmt: skip
