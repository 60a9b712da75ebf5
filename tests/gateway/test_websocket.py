"""A job's events over a WebSocket, and the tokens that browsers open them with."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway import stream_tokens
from gateway.errors import Problem
from llmgine_workers import clock
from llmgine_workers.events import facts
from llmgine_workers.ledger import api_keys
from tests.gateway.conftest import Live, Seat, StandIn

BOUND_S = 10


def address(live: Live, job: UUID | str, query: str = "") -> str:
    return f"{live.url.replace('http', 'ws', 1)}/v1/jobs/{job}/events{query}"


async def all_of(socket: ClientConnection) -> tuple[list[dict[str, Any]], int | None]:
    """Every event, and the code the socket was closed with."""
    told: list[dict[str, Any]] = []
    async with asyncio.timeout(BOUND_S):
        try:
            while True:
                told.append(json.loads(await socket.recv()))
        except ConnectionClosed as closed:
            return told, closed.rcvd.code if closed.rcvd else None


async def refusal(live: Live, query: str, **headers: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(
            address(live, clock.uuid7(), query), additional_headers=headers
        ):
            pass
    body = refused.value.response.body
    assert json.loads(body)["status"] == refused.value.response.status_code
    return refused.value.response.status_code


@pytest.mark.integration
async def test_history_then_live_then_the_end(live: Live) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    async with connect(address(live, job), additional_headers=seat.headers) as socket:
        first = json.loads(await socket.recv())
        assert (first["type"], first["seq"]) == ("job.queued", 1)
        await live.rt.events.emit(facts.StepDelta(job, "draft", 1, text="Prices"))
        await live.succeed(job)
        told, code = await all_of(socket)
    assert [event["type"] for event in told] == [
        "step.queued", "step.delta", "job.finished",
    ]  # fmt: skip
    assert [event["seq"] for event in told] == [2, 3, 4]
    assert "fence" not in told[1]
    assert code == 1000
    seen = f"?after={told[-1]['seq']}"
    async with connect(
        address(live, job, seen), additional_headers=seat.headers
    ) as socket:
        assert await all_of(socket) == ([], 1000)


@pytest.mark.integration
async def test_a_refusal_comes_before_the_upgrade(live: Live) -> None:
    seat, blind = await live.seat("read"), await live.seat("submit")
    assert await refusal(live, "") == 401
    assert await refusal(live, "", **blind.headers) == 403
    assert await refusal(live, "", **seat.headers) == 404
    assert await refusal(live, "?after=-1", **seat.headers) == 422
    assert await refusal(live, "?token=llms_x") == 401


@pytest.mark.integration
async def test_what_a_client_says_changes_nothing(live: Live) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    async with connect(address(live, job), additional_headers=seat.headers) as socket:
        for _ in range(50):
            await socket.send("hello")
        await live.succeed(job)
        told, code = await all_of(socket)
    assert (told[-1]["type"], code) == ("job.finished", 1000)


async def token(live: Live, seat: Seat, job: UUID) -> dict[str, Any]:
    answer = await live.client.post(f"/v1/jobs/{job}/stream-token", headers=seat.headers)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.integration
async def test_a_token_opens_the_events_of_its_job_only(live: Live) -> None:
    seat = await live.seat("submit", "read")
    job, other = await live.submitted(seat), await live.submitted(seat)
    await live.succeed(job)
    made = await token(live, seat, job)
    answer = await live.client.get(made["url"])
    assert answer.status_code == 200
    assert b"event: job.finished" in answer.content
    async with connect(address(live, job, f"?token={made['token']}")) as socket:
        told, _ = await all_of(socket)
    assert told[-1]["type"] == "job.finished"
    elsewhere = await live.client.get(f"/v1/jobs/{other}/events?token={made['token']}")
    assert elsewhere.status_code == 401
    as_key = await live.client.get(
        f"/v1/jobs/{job}", headers={"Authorization": f"Bearer {made['token']}"}
    )
    assert as_key.status_code == 401


async def test_a_token_ends_with_its_time_and_with_its_key(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    seat, job = standin.seat("read"), clock.uuid7()
    keyring = standin.app.state.gateway.keyring
    caller = await keyring.caller(seat.headers["Authorization"])
    text, ends = await stream_tokens.issue(keyring, caller, job)
    assert (await stream_tokens.caller_of(keyring, text, job)).scopes == {"read"}
    flipped = text[:-1] + ("0" if text[-1] != "0" else "1")
    with pytest.raises(Problem):
        await stream_tokens.caller_of(keyring, flipped, job)
    with monkeypatch.context() as later:
        later.setattr(clock, "now", lambda: ends + timedelta(seconds=1))
        with pytest.raises(Problem):
            await stream_tokens.caller_of(keyring, text, job)

    async def gone(*_: object) -> None:
        return None

    monkeypatch.setattr(api_keys, "found", gone)
    keyring._seen.clear()
    with pytest.raises(Problem):
        await stream_tokens.caller_of(keyring, text, job)
