"""Following a job over connections that break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import orjson
import pytest

from llmgine_workers.cli import follow
from llmgine_workers.cli.api import Api, GatewayUnreachable, Refused

Handler = Callable[[httpx2.Request], httpx2.Response]


def frames(*events: dict[str, Any]) -> httpx2.Response:
    body = b"".join(
        f"id: {event['seq']}\nevent: {event['type']}\ndata: ".encode()
        + orjson.dumps(event)
        + b"\n\n"
        for event in events
    )
    headers = {"content-type": "text/event-stream"}
    return httpx2.Response(200, content=body, headers=headers)


def delta(seq: int) -> dict[str, Any]:
    return {"type": "step.delta", "seq": seq, "step": "a", "text": str(seq)}


def end(seq: int) -> dict[str, Any]:
    return {"type": "job.finished", "seq": seq, "state": "succeeded"}


class Gateway:
    """Answers one scripted response per connection."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked_after: list[str | None] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked_after.append(request.headers.get("last-event-id"))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_PAUSES_S", (0.0,))


async def followed(gateway: Handler, after: str = "") -> list[int]:
    transport = httpx2.MockTransport(gateway)
    url = "http://gateway"
    async with httpx2.AsyncClient(transport=transport, base_url=url) as client:
        return [event["seq"] async for event in follow.events(Api(client), "J", after)]


async def test_it_resumes_after_the_last_event_it_has_seen() -> None:
    gateway = Gateway(
        frames(delta(1), delta(2)),
        httpx2.ConnectError("refused"),
        httpx2.Response(503, json={"code": "ledger_unavailable"}),
        frames(delta(3), end(4)),
    )
    assert await followed(gateway) == [1, 2, 3, 4]
    assert gateway.asked_after == [None, "2", "2", "2"]


async def test_a_replayed_job_is_followed_past_its_first_end() -> None:
    again = {"type": "job.replayed", "seq": 3, "step": "a"}
    gateway = Gateway(frames(delta(1), end(2), again, delta(4), end(5)))
    assert await followed(gateway) == [1, 2, 3, 4, 5]


async def test_nothing_more_to_tell_is_an_end() -> None:
    assert await followed(Gateway(httpx2.Response(204)), after="7") == []


async def test_a_refusal_is_not_repeated() -> None:
    problem = {"code": "not_found", "detail": "no job"}
    gateway = Gateway(httpx2.Response(404, json=problem))
    with pytest.raises(Refused, match="no job"):
        await followed(gateway)


async def test_a_gateway_that_never_answered_is_given_up_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "_FIRST_S", -1.0)
    with pytest.raises(GatewayUnreachable, match="llmgine up"):
        await followed(Gateway(httpx2.ConnectError("refused")))


async def test_a_gateway_that_stays_away_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "GIVE_UP_S", -1.0)
    with pytest.raises(GatewayUnreachable):
        await followed(Gateway(frames(delta(1)), httpx2.ReadError("cut")))
