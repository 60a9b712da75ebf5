"""Hostile requests are answered, each of them, and none by a defect.

`LLMGINE_HOSTILE=50000` makes as many, `LLMGINE_SEED` other ones; `python -m
loadtests.hostile` watches the gateway's memory as well.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from gateway.front.options import READ_TIMEOUT
from tests.gateway.conftest import Live
from tests.gateway.hostile import Hostile

pytestmark = pytest.mark.integration

COUNT = int(os.environ.get("LLMGINE_HOSTILE", "300"))
SEED = int(os.environ.get("LLMGINE_SEED", "7"))


@pytest.mark.timeout(60 + COUNT)
async def test_hostile_requests_are_answered_and_never_by_a_defect(live: Live) -> None:
    seat = await live.seat("submit", "read", "payloads", "operate")
    document = (await live.client.get("/openapi.json")).json()
    hostile = Hostile(str(await live.submitted(seat)), SEED, document)
    statuses: set[int] = set()

    async def send() -> None:
        made = hostile.request()
        headers = {**made.headers, **seat.headers, READ_TIMEOUT: "0.1"}
        request = live.client.build_request(
            made.method, made.address, headers=headers, content=made.body
        )
        answer = await live.client.send(request, stream=True)
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            await answer.aclose()  # nobody works here, so it would not end
            return
        await answer.aread()
        if answer.status_code == 504:  # held as long as it said
            assert answer.json()["error"]["code"] == "not_finished"
            return
        statuses.add(answer.status_code)
        told = (request.method, str(request.url), request.content[:2000], answer.text)
        assert answer.status_code < 500, told
        assert "Traceback" not in answer.text, told
        if answer.status_code >= 400 and request.method != "HEAD":
            refused = answer.json()
            assert refused.get("error", refused)["code"], told

    for _ in range(COUNT // 6):
        await asyncio.gather(*(send() for _ in range(6)))
    assert {200, 202, 400, 404, 405, 422} <= statuses
