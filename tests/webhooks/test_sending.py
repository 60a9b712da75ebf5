from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from llmgine_workers.webhooks.address import network
from llmgine_workers.webhooks.sending import Sender

INNER = (network("127.0.0.0/8"),)


class Receiver:
    """A server that answers as its path says, and counts who came."""

    def __init__(self) -> None:
        self.came: list[tuple[str, bytes, dict[str, str]]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        seen = dict(request.headers)
        self.came.append((request.path, await request.read(), seen))
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        if request.path == "/hangs":
            await asyncio.sleep(30)
        if request.path == "/endless":
            endless = web.StreamResponse()
            await endless.prepare(request)
            while True:
                await endless.write(b"x" * 65536)
        return web.Response(status=int(request.path[1:] or 200))


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[Receiver, str]]:
    made, app = Receiver(), web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.1)
    yield made, f"http://127.0.0.1:{server.port}"
    await server.close()


async def test_a_message_arrives_as_it_was_given(receiver: tuple[Receiver, str]) -> None:
    made, url = receiver
    sent = await Sender(INNER).post(f"{url}/204", b"{}", {"webhook-id": "m"})
    assert (sent.status, sent.error, sent.is_taken) == (204, None, True)
    ((_, body, headers),) = made.came
    assert (body, headers["webhook-id"]) == (b"{}", "m")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/moved", "answered 302"),
        ("/500", "answered 500"),
        ("/410", "answered 410"),
        ("/hangs", "no answer in 0.3 s"),
    ],
)
async def test_what_is_no_answer_of_success_is_told(
    receiver: tuple[Receiver, str], path: str, error: str
) -> None:
    made, url = receiver
    sent = await Sender(INNER, answer_s=0.3).post(url + path, b"{}", {})
    assert (sent.is_taken, sent.error) == (False, error)
    assert len(made.came) == 1  # a redirect is not followed


async def test_an_endless_answer_is_not_read(receiver: tuple[Receiver, str]) -> None:
    _, url = receiver
    async with asyncio.timeout(5):
        assert (await Sender(INNER).post(f"{url}/endless", b"{}", {})).is_taken


async def test_nothing_inside_is_connected_to(receiver: tuple[Receiver, str]) -> None:
    made, url = receiver
    sent = await Sender().post(url.replace("http", "https", 1), b"{}", {})
    assert sent.error == "leads to an address that is not public"
    assert made.came == []


async def test_a_name_that_leads_inside_is_not_connected_to(
    receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, url = receiver
    port = int(url.rpartition(":")[2])

    async def found(*_: Any, **__: Any) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("93.184.215.14", port)), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found, raising=False)
    sent = await Sender().post(f"https://rebound.example.com:{port}/", b"{}", {})
    assert sent.error == "leads to an address that is not public"
    assert made.came == []


async def test_nobody_there_is_told_without_details() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    sent = await Sender(INNER).post(f"http://127.0.0.1:{port}/", b"{}", {})
    assert sent.error == "not reached: ClientConnectorError"
