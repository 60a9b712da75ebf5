"""`llmgine flower` as a process: who may look, who may act, how it starts and stops."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable
from uuid import uuid4

import pytest
from flower.urls import handlers

from llmgine_workers.cli.exits import Exit
from llmgine_workers.monitor.server import HANDLERS
from tests.monitor.running import PASSWORD, USER, Flower, free_port

NewFlower = Callable[..., Flower]

OPEN_TO_ALL = ("/metrics", "/healthcheck", "/static/x", "/login/?", "/logout", ".*")
"""Flower's documentation names the first two; the others show nothing of ours."""


_ID = re.compile(r"\(\[0-9[^)]*\)")
_ALTERNATIVES = re.compile(r"\((\w+)\|[^)]*\)")


@pytest.fixture
def nowhere() -> str:
    """A broker that is away."""
    return f"amqp://user:broker-secret@127.0.0.1:{free_port()}//"


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"FLOWER_USER": USER}, "set FLOWER_PASSWORD"),
        ({"FLOWER_PASSWORD": PASSWORD, "FLOWER_USER": ""}, "set FLOWER_USER"),
        ({"OTHER": "x"}, "set FLOWER_USER and FLOWER_PASSWORD"),
        ({"FLOWER_USER": "ä", "FLOWER_PASSWORD": PASSWORD}, "FLOWER_USER must be ASCII"),
    ],
)
async def test_without_user_and_password_it_does_not_start(
    new_flower: NewFlower, nowhere: str, environ: dict[str, str], sentence: str
) -> None:
    flower = new_flower(nowhere)
    flower.spawn(**environ)
    assert await flower.ends() == Exit.CONFIGURATION
    (line,) = flower.log.read_text().splitlines()
    assert sentence in line
    assert PASSWORD not in line


async def test_it_does_not_start_where_another_listens(
    new_flower: NewFlower, nowhere: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flower = new_flower(nowhere, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        flower.spawn()
        assert await flower.ends() == Exit.CONFIGURATION
    assert "flower.listen = " in flower.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_without_a_broker_it_starts_names_the_queues_and_stops_cleanly(
    new_flower: NewFlower, nowhere: str, number: signal.Signals
) -> None:
    flower = new_flower(nowhere)
    await flower.start()
    names = ("openai", "anthropic", "tools", "dead", "unrouted")
    assert await flower.depths() == {f"llmgine.{name}": None for name in names}
    assert "llmgine.dead" in await flower.page("/broker")
    assert await flower.ends(number) == Exit.OK
    assert "Traceback" not in flower.log.read_text()
    assert "broker-secret" not in flower.log.read_text()


async def test_every_page_and_every_act_needs_the_password(
    new_flower: NewFlower, nowhere: str
) -> None:
    flower = new_flower(nowhere)
    await flower.start()
    for auth in (None, (USER, "guessed"), ("guessed", PASSWORD)):
        for path in _paths():
            asked = [
                await flower.client.request(method, path, auth=auth)
                for method in ("GET", "POST")
            ]
            statuses = {answer.status_code for answer in asked}
            assert 401 in statuses <= {401, 405}, (path, auth)


def _paths() -> list[str]:
    """Of every handler there is, Flower's and ours."""
    patterns = [
        one.regex.pattern if hasattr(one, "regex") else one[0]
        for one in (*handlers, *HANDLERS)
    ]
    patterns = [_ALTERNATIVES.sub(r"\1", _ID.sub(str(uuid4()), p)) for p in patterns]
    paths = {re.sub(r"\(.[+*]\)", "x", pattern).rstrip("$") for pattern in patterns}
    return sorted(paths.difference(OPEN_TO_ALL))


async def test_read_only_it_shows_but_does_not_act(
    new_flower: NewFlower, nowhere: str
) -> None:
    flower = new_flower(nowhere)
    await flower.start("--read-only")
    assert "llmgine.dead" in await flower.page("/broker")
    for act in ("worker/shutdown/w", "task/revoke/t", "task/send-task/llmgine.step"):
        answer = await flower.client.post(f"/api/{act}", content=b"{}")
        assert answer.status_code == 403, act
