"""From a submit with `options.webhook` to the message, its log, and once more."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from llmgine_workers.clock import now, uuid7
from llmgine_workers.engine import webhooks
from llmgine_workers.engine.webhooks import FIRST_S, LONGEST_S, delay_s, message
from llmgine_workers.ledger.webhooks import Owed
from tests.gateway.conftest import WEBHOOK_KEY, Live, Seat

integration = pytest.mark.integration


@dataclass
class Receiver:
    """Answers with `status`, and keeps what came."""

    url: str = ""
    status: int = 200
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): text for name, text in request.headers.items()}
        self.came.append((headers, await request.read()))
        return web.Response(status=self.status)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made, app = Receiver(), web.Application()
    app.router.add_post("/done", made.answer)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.1)
    made.url = f"http://127.0.0.1:{server.port}/done"
    yield made
    await server.close()


async def owed(live: Live, seat: Seat, url: str) -> UUID:
    job = await live.submitted(seat, options={"webhook": url})
    shown = await live.client.get(f"/v1/jobs/{job}", headers=seat.headers)
    assert shown.json()["options"]["webhook"] == url
    return job


async def log(live: Live, seat: Seat, job: UUID) -> dict[str, Any]:
    answer = await live.client.get(f"/v1/jobs/{job}/webhook", headers=seat.headers)
    assert answer.status_code == 200
    (found,) = answer.json()["data"]
    return dict(found)


async def make_due(live: Live, job: UUID) -> None:
    async with live.rt.ledger.connection() as connection:
        await connection.execute(
            "update webhooks set next_at = now() where job_id = $1", job
        )


@integration
async def test_the_end_of_a_job_is_told_signed_and_once(
    live: Live, receiver: Receiver
) -> None:
    seat = await live.seat("submit", "read")
    job = await owed(live, seat, receiver.url)
    await webhooks.deliver(live.rt)
    assert receiver.came == []
    await live.succeed(job, "Prices rose")
    await webhooks.deliver(live.rt)
    await webhooks.deliver(live.rt)
    ((headers, body),) = receiver.came
    told = json.loads(body)
    assert told["type"] == "job.finished"
    assert (told["data"]["id"], told["data"]["output"]) == (str(job), "Prices rose")
    assert told["data"]["inputs"] is None
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(WEBHOOK_KEY, signed, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    found = await log(live, seat, job)
    assert (found["state"], found["tries"]) == ("delivered", 1)
    assert found["log"][0]["status"] == 200


@integration
async def test_what_was_not_taken_is_sent_again_with_the_same_id(
    live: Live, receiver: Receiver
) -> None:
    seat = await live.seat("submit", "read", "operate")
    job = await owed(live, seat, receiver.url)
    await live.fail(job)
    receiver.status = 503
    await webhooks.deliver(live.rt)
    await webhooks.deliver(live.rt)  # not due yet
    found = await log(live, seat, job)
    assert (found["state"], found["tries"]) == ("pending", 1)
    assert found["log"][0]["error"] == "answered 503"
    receiver.status = 200
    await make_due(live, job)
    await webhooks.deliver(live.rt)
    again = await live.client.post(f"/v1/jobs/{job}/webhook", headers=seat.headers)
    assert (again.status_code, again.json()["data"][0]["state"]) == (202, "pending")
    await webhooks.deliver(live.rt)
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 1
    assert len(receiver.came) == 3
    assert json.loads(receiver.came[0][1])["data"]["state"] == "failed"
    assert [entry["status"] for entry in (await log(live, seat, job))["log"]] == [
        503, 200, 200,
    ]  # fmt: skip


@integration
async def test_after_its_day_it_is_given_up(live: Live, receiver: Receiver) -> None:
    seat = await live.seat("submit", "read")
    job = await owed(live, seat, receiver.url)
    await live.succeed(job)
    receiver.status = 500
    async with live.rt.ledger.connection() as connection:
        await connection.execute(
            "update webhooks set give_up_at = now() where job_id = $1", job
        )
    await webhooks.deliver(live.rt)
    found = await log(live, seat, job)
    assert (found["state"], found["next_at"]) == ("failed", None)


@integration
async def test_two_schedulers_send_one_message(live: Live, receiver: Receiver) -> None:
    seat = await live.seat("submit", "read")
    jobs = [await owed(live, seat, receiver.url) for _ in range(5)]
    for job in jobs:
        await live.succeed(job)
    await asyncio.gather(*(webhooks.deliver(live.rt) for _ in range(4)))
    sent = [json.loads(body)["data"]["id"] for _, body in receiver.came]
    assert sorted(sent) == sorted(map(str, jobs))


@integration
async def test_an_inner_address_is_refused_at_submit(live: Live) -> None:
    seat = await live.seat("submit")
    body = {"chain": "summarize", "inputs": {"text": "x"},
            "options": {"webhook": "https://169.254.169.254/"}}  # fmt: skip
    answer = await live.client.post("/v1/jobs", json=body, headers=seat.headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "webhook_not_allowed")
    assert answer.json()["errors"][0]["pointer"] == "/options/webhook"


@integration
async def test_a_job_without_one_and_another_tenants_have_none(
    live: Live, receiver: Receiver
) -> None:
    seat, other = await live.seat("submit", "read"), await live.seat("read", "operate")
    plain, job = await live.submitted(seat), await owed(live, seat, receiver.url)
    await live.succeed(job)
    for who, which in ((seat, plain), (other, job)):
        path = f"/v1/jobs/{which}/webhook"
        assert (await live.client.get(path, headers=who.headers)).status_code == 404
    path = f"/v1/jobs/{job}/webhook"
    assert (await live.client.post(path, headers=other.headers)).status_code == 404
    assert (await live.client.post(path, headers=seat.headers)).status_code == 403


def test_a_large_output_is_left_out_and_said_so() -> None:
    one = Owed(uuid7(), 0, "acme", "https://example.com", 1, now())
    small = json.loads(message({"output": "x", "inputs": "secret"}, one))["data"]
    assert small == {"output": "x", "inputs": None}
    large = json.loads(message({"output": "x" * 300_000}, one))["data"]
    assert (large["output"], large["output_left_out"]) == (None, True)


def test_pauses_double_up_to_an_hour() -> None:
    pauses = [delay_s(tries) for tries in range(1, 40)]
    assert pauses[0] <= FIRST_S * 1.2
    assert max(pauses) <= LONGEST_S * 1.2
    assert pauses[20] >= LONGEST_S * 0.8
