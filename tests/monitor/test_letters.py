"""The Dead letters tab: found, read, replayed and put away, by who may."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from llmgine_workers import clock
from llmgine_workers.engine import replays
from llmgine_workers.ledger import letters
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.prices import Prices
from tests.engine.line import Line, chain, llm, open_line, until
from tests.engine.stand_ins import answer, failing
from tests.monitor.running import Flower

pytestmark = pytest.mark.integration

SCRIPT = "<script>alert(1)</script>"
NewFlower = Callable[..., Flower]


@dataclass
class Tab:
    """A Flower over a ledger, and the line that fails jobs in it."""

    flower: Flower
    line: Line

    async def fail(self, message: str = "no such model") -> UUID:
        """A job that has failed at its second step."""
        rt = await self.line.worker()
        job = await self.line.submit(chain(llm("draft"), llm("final")))
        failure = failing("provider_rejected", message)
        self.line.provider.will(answer(), failure)
        await self.line.run_to_end(rt, job)
        return job

    async def letter(self, job: UUID) -> dict[str, Any]:
        found = await letters.found(self.line.ledger, job)
        assert found is not None
        return found

    async def send(self, path: str, page: str, **form: str) -> httpx2.Response:
        """A form of a page, with the token that the page has in it."""
        (token, *_) = re.findall(r'name="_xsrf" value="([^"]+)"', page) or [""]
        return await self.flower.client.post(path, data={"_xsrf": token, **form})


@pytest.fixture
async def line(postgres_url: str, redis_url: str) -> AsyncIterator[Line]:
    """On a ledger of its own: the tab shows every letter there is."""
    ledger = Ledger(postgres_url, f"f{uuid4().hex[:10]}")
    await migrate(ledger)
    async with open_line(ledger, redis_url, Prices({})) as line:
        yield line
    await ledger.close()


@pytest.fixture
def tab(new_flower: NewFlower, line: Line, redis_url: str) -> Tab:
    schema, url = line.ledger.schema, line.ledger.url
    return Tab(new_flower(redis_url, schema, ledger=url), line)


async def test_a_letter_is_found_opened_and_replayed_and_the_job_succeeds(
    tab: Tab,
) -> None:
    await tab.flower.start()
    job, other = await tab.fail(), await tab.fail()
    letter = await tab.letter(job)
    assert ">Dead letters</a>" in await tab.flower.page("/tasks")
    page = await tab.flower.page("/dead-letters")
    assert str(letter["id"]) in page
    page = await tab.flower.page(f"/dead-letters?chain={letter['chain']}")
    assert str(letter["id"]) in page
    assert str((await tab.letter(other))["id"]) not in page
    by_task = await tab.flower.page(f"/dead-letters?state=any&task={letter['task_id']}")
    assert str(letter["id"]) in by_task
    groups = await tab.flower.page("/dead-letters/groups")
    assert "no such model" in groups

    page = await tab.flower.page(f"/dead-letters/letter/{letter['id']}")
    for told in (str(job), "provider_rejected: no such model", "attempts-table",
                 f"/task/{letter['task_id']}", "Say something."):  # fmt: skip
        assert told in page, told
    sent = await tab.send("/dead-letters/replay", page, id=str(letter["id"]))
    assert sent.status_code == 302
    (at,) = re.findall(r"/dead-letters/replay/([0-9a-f-]+)", sent.headers["location"])
    await until(lambda: _is_replayed(tab, job), "the scheduler has started it")
    await tab.line.run_to_end(await tab.line.worker(), job)
    assert (await tab.line.place.job_row(job))["state"] == "succeeded"
    await replays.advance(tab.line.rt)
    await replays.advance(tab.line.rt)
    page = await tab.flower.page(f"/dead-letters/replay/{at}")
    assert 'id="replay-state">finished' in page
    assert f"/task/{clock.task_id(job, 'final', 1)}" in page
    assert (await tab.letter(job))["resolved_by"] == "flower:operator"


async def _is_replayed(tab: Tab, job: UUID) -> bool:
    await replays.advance(tab.line.rt)
    return bool((await tab.line.place.job_row(job))["run"] == 1)


async def test_what_a_message_says_is_text_and_never_markup(tab: Tab) -> None:
    await tab.flower.start()
    job = await tab.fail(SCRIPT)
    raw = await letters.write_unprocessable(
        tab.line.ledger, SCRIPT.encode(), SCRIPT, uuid4().bytes
    )
    letter = (await tab.letter(job))["id"]
    for path in ("", "/groups", f"/letter/{letter}", f"/letter/{raw}"):
        page = await tab.flower.page(f"/dead-letters{path}")
        assert SCRIPT not in page, path
        assert "&lt;script&gt;" in page, path
    page = await tab.flower.page("/dead-letters?code=%3Cscript%3E&step=%22%3E")
    assert "<script>&" not in page
    assert 'value="&lt;script&gt;"' in page


async def test_only_a_form_of_ours_acts_and_never_on_everything_by_mistake(
    tab: Tab,
) -> None:
    await tab.flower.start()
    job = await tab.fail()
    letter = str((await tab.letter(job))["id"])
    page = await tab.flower.page(f"/dead-letters/letter/{letter}")
    bare = await tab.flower.client.post("/dead-letters/discard", data={"id": letter})
    assert bare.status_code == 403, "without a token"
    headers = {"Sec-Fetch-Site": "cross-site"}
    crossed = await tab.flower.client.post("/dead-letters/discard", headers=headers)
    assert crossed.status_code == 403
    assert (await tab.send("/dead-letters/discard", page)).status_code == 400
    for path in ("?state=shut", "?since=later"):
        answer = await tab.flower.client.get(f"/dead-letters{path}")
        assert answer.status_code == 400, path
    assert (await tab.letter(job))["state"] == "open"
    sent = await tab.send("/dead-letters/discard", page, id=letter)
    assert sent.status_code == 302
    assert (await tab.letter(job))["resolution"] == "discarded"
    again = await tab.send("/dead-letters/replay", page, id=letter)
    assert again.status_code == 409
    assert "resolved already" in again.text


async def test_read_only_it_shows_letters_and_acts_on_none(tab: Tab) -> None:
    await tab.flower.start("--read-only")
    job = await tab.fail()
    letter = str((await tab.letter(job))["id"])
    page = await tab.flower.page(f"/dead-letters/letter/{letter}")
    assert "<form" not in page
    for what in ("replay", "discard", "ignore"):
        sent = await tab.send(f"/dead-letters/{what}", page, id=letter, _xsrf=_token(tab))
        assert sent.status_code == 403, what
        assert "read-only" in sent.text
    assert (await tab.letter(job))["state"] == "open"


def _token(tab: Tab) -> str:
    with suppress(KeyError):
        return str(tab.flower.client.cookies["_xsrf"])
    return ""


async def test_below_a_prefix_all_links_are_below_it(
    new_flower: NewFlower, line: Line, redis_url: str
) -> None:
    schema, url = line.ledger.schema, line.ledger.url
    flower = new_flower(redis_url, schema, ledger=url, below="ops/flower")
    tab = Tab(flower, line)
    job = await tab.fail()
    flower.spawn()
    await asyncio.wait_for(_answers(flower), 30)
    letter = (await tab.letter(job))["id"]
    for path in ("/dead-letters", f"/dead-letters/letter/{letter}", "/broker"):
        page = await flower.page(f"/ops/flower{path}")
        links = re.findall(r'(?:href|src|action)="(/[^"]*)"', page)
        assert links
        assert not [link for link in links if not link.startswith("/ops/flower")]


async def _answers(flower: Flower) -> None:
    while True:
        with suppress(httpx2.TransportError):
            if (await flower.client.get("/ops/flower/healthcheck")).is_success:
                return
        await asyncio.sleep(0.1)


async def test_a_ledger_that_is_away_is_said_in_a_sentence(
    new_flower: NewFlower, redis_url: str
) -> None:
    flower = new_flower(redis_url, f"f{uuid4().hex[:10]}")
    await flower.start()
    answer = await flower.client.get("/dead-letters")
    assert answer.status_code == 503
    assert "the ledger does not answer" in answer.text
    assert "Traceback" not in flower.log.read_text()
