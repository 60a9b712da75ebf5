"""The events of one job as they come, over restarts of the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx2

from llmgine_workers.cli.api import Api, Refused, answer_of, unreachable
from llmgine_workers.errors import LlmgineError

GIVE_UP_S = 120.0
"""How long a gateway that has answered before may be away."""

_FIRST_S = 2.0  # how long one that never answered is tried
_SILENCE_S = 45.0  # the gateway pings every 15 s
_PAUSES_S = (0.1, 0.5, 1.0, 2.0)


class _NothingMore(Exception):
    """The job has ended and there is nothing left to stream (204)."""


class _Patience:
    """How long to go on trying: longer with a gateway that has answered before."""

    def __init__(self) -> None:
        self._last, self._limit_s, self._failures = time.monotonic(), _FIRST_S, 0

    def answered(self) -> None:
        self._last, self._limit_s, self._failures = time.monotonic(), GIVE_UP_S, 0

    def bear(self, error: LlmgineError) -> None:
        if time.monotonic() - self._last > self._limit_s:
            raise error

    async def pause(self) -> None:
        await asyncio.sleep(_PAUSES_S[min(self._failures, len(_PAUSES_S) - 1)])
        self._failures += 1


async def events(api: Api, job: str, after: str = "") -> AsyncIterator[dict[str, Any]]:
    """Every event after that number (all of them without), until the job's end.

    A replayed job has more than one `job.finished`: the gateway closes after the last.
    Refused if the gateway refuses; GatewayUnreachable if it stays away.
    """
    last_id, patience = after, _Patience()
    while True:
        finished = False
        try:
            async for seen, event in _connection(api, job, last_id):
                last_id = seen or last_id
                patience.answered()
                yield event
                finished = event.get("type") == "job.finished"
            if finished:
                return
        except _NothingMore:
            return
        except httpx2.TransportError as lost:
            patience.bear(unreachable(api.client, lost))
        except Refused as refused:
            if refused.status < 500:
                raise
            patience.bear(refused)
        await patience.pause()


async def _connection(
    api: Api, job: str, last_id: str
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    path = f"/v1/jobs/{quote(job, safe='')}/events"
    timeout = httpx2.Timeout(10, read=_SILENCE_S)
    async with api.client.sse(path, headers=headers, timeout=timeout) as source:
        response = source.response
        if response.status_code == httpx2.codes.NO_CONTENT:
            raise _NothingMore
        if not response.is_success:
            await response.aread()
            answer_of(response)
        async for event in source:
            found = event.json()
            if isinstance(found, dict):
                yield event.id, found
