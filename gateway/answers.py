"""What routes have in common: addresses, JSON answers, and a job for a caller's eyes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import Depends, Path
from starlette.responses import Response

from gateway.auth import Caller
from gateway.errors import not_found

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


async def _job_id(job: Annotated[str, Path(description="The job's id")]) -> UUID:
    return _id(job)


async def _batch_id(batch: Annotated[str, Path(description="The batch's id")]) -> UUID:
    return _id(batch)


def _letter_id(letter: Annotated[str, Path(description="A letter's or job's")]) -> UUID:
    return _id(letter)


def _replay_id(replay: Annotated[str, Path(description="The replay's id")]) -> UUID:
    return _id(replay)


def _id(text: str) -> UUID:
    if not _UUID.fullmatch(text):
        raise not_found()
    return UUID(text)


JobId = Annotated[UUID, Depends(_job_id)]
"""A route's parameter: the id in its path; what is no id is not found."""
BatchId = Annotated[UUID, Depends(_batch_id)]
"""The same, of a batch."""
LetterId = Annotated[UUID, Depends(_letter_id)]
"""The same, of a dead letter or its job."""
ReplayId = Annotated[UUID, Depends(_replay_id)]
"""The same, of a replay."""


def answer(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(body), status, headers, "application/json")


def for_caller(job: dict[str, Any], caller: Caller) -> dict[str, Any]:
    """The job; who may submit but not read sees neither inputs nor output."""
    if "read" in caller.scopes:
        return job
    return {**job, "inputs": None, "output": None}
