"""Every command that the pages show is run, in a folder like the reader's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.docs.pages import NAMES, blocks
from tests.docs.site import Done, commands, running
from tests.servers import Rabbit

WITH_COMMANDS = [name for name in NAMES if blocks(name, "sh")]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, shared_rabbit: Rabbit
) -> Iterator[Mapping[str, list[Done]]]:
    """All pages, read at the same time: most of it is waiting for an answer."""
    folder = tmp_path_factory.mktemp("reader")
    with (
        running(folder, shared_rabbit.new_vhost("docs")) as site,
        ThreadPoolExecutor(len(WITH_COMMANDS)) as readers,
    ):
        yield dict(zip(WITH_COMMANDS, readers.map(site.read, WITH_COMMANDS), strict=True))


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_of_a_page_ends_as_it_says(
    name: str, done: Mapping[str, list[Done]]
) -> None:
    assert all(one.as_told for one in done[name]), done[name][-1]
    shown = [command for block in blocks(name, "sh") for command in commands(block)]
    assert [one.command for one in done[name]] == shown


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_what_a_page_waits_for_succeeds(
    name: str, done: Mapping[str, list[Done]]
) -> None:
    for one in done[name]:
        answer = one.process.stdout
        if "wait=" in one.command.line and answer.startswith("{"):
            assert json.loads(answer)["state"] == "succeeded", one
