"""`llmgine jobs ...` and `llmgine pools list` against the real gateway."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from llmgine_workers import clock
from llmgine_workers.cli.app import main
from llmgine_workers.settings import Settings
from tests.gateway.conftest import Live, Seat

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Awaitable[Ended]]


@pytest.fixture
async def seat(live: Live) -> Seat:
    return await live.seat("submit", "read")


@pytest.fixture
def run(
    live: Live,
    seat: Seat,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    monkeypatch.setenv("LLMGINE_URL", live.url)
    monkeypatch.setenv("LLMGINE_API_KEY", seat.text)
    monkeypatch.setattr("sys.stdin", io.StringIO())

    async def run(*words: object) -> Ended:
        capsys.readouterr()
        status = await asyncio.to_thread(main, [str(word) for word in words])
        return Ended(status, *capsys.readouterr())

    return run


async def three(live: Live, seat: Seat) -> list[str]:
    made = [await live.submitted(seat, metadata={"n": str(n)}) for n in range(3)]
    return [str(job) for job in made]


async def test_jobs_are_listed_by_every_filter(live: Live, seat: Seat, run: Run) -> None:
    first, second, third = await three(live, seat)
    await live.fail(UUID(second))
    whole = await run("jobs", "list", "--json")
    assert [one["id"] for one in whole.json["data"]] == [third, second, first]
    two = await run("jobs", "list", "--limit", 2, "--json")
    assert [one["id"] for one in two.json["data"]] == [third, second]
    for filters, found in (
        (["--state", "failed"], [second]),
        (["--metadata", "n=0"], [first]),
        (["--chain", "other"], []),
        (["--since", "1h", "--state", "queued"], [third, first]),
        (["--since", "2100-01-01T00:00:00Z"], []),
        (["--batch", clock.uuid7()], []),
    ):
        listed = await run("jobs", "list", *filters, "--json")
        assert [one["id"] for one in listed.json["data"]] == found, filters
    table = await run("jobs", "list", "--state", "failed")
    assert second in table.out
    assert "tool_failed" in table.out


async def test_what_no_list_has_is_a_refusal(run: Run) -> None:
    for words in (["--since", "soon"], ["--since", "2026-11-20T12:00:00"],
                  ["--metadata", "n"]):  # fmt: skip
        assert (await run("jobs", "list", *words)).status == 2
    assert (await run("jobs", "list", "--state", "dead")).status == 65


async def test_jobs_are_cancelled_by_their_ids(live: Live, seat: Seat, run: Run) -> None:
    first, second, third = await three(live, seat)
    await live.succeed(UUID(third))
    done = await run("jobs", "cancel", first)
    assert (done.status, done.out) == (0, f"{first} cancelled\n")
    partly = await run("jobs", "cancel", first, second, third, "--json")
    assert partly.status == 3
    assert partly.json == {"cancelled": [first, second], "already_finished": [third]}
    assert (await run("jobs", "cancel", third)).status == 65
    assert (await run("jobs", "cancel", clock.uuid7())).status == 65


async def test_jobs_are_cancelled_by_filters_but_never_by_surprise(
    live: Live, seat: Seat, run: Run
) -> None:
    first, second, third = await three(live, seat)
    await live.succeed(UUID(third))
    assert (await run("jobs", "cancel")).status == 2
    assert (await run("jobs", "cancel", first, "--chain", "x")).status == 2
    unasked = await run("jobs", "cancel", "--chain", "summarize")
    assert (unasked.status, "--yes" in unasked.err) == (2, True)
    dry = await run("jobs", "cancel", "--chain", "summarize", "--dry-run", "--json")
    assert sorted(dry.json["data"]) == sorted([first, second])
    shown = await run("jobs", "list", "--state", "queued", "--json")
    assert len(shown.json["data"]) == 2
    done = await run("jobs", "cancel", "--chain", "summarize", "--yes", "--json")
    assert (done.status, sorted(done.json["cancelled"])) == (0, sorted([first, second]))
    again = await run("jobs", "cancel", "--chain", "summarize", "--yes", "--json")
    assert (again.status, again.json) == (0, {"cancelled": []})


async def test_a_job_is_explained_in_a_sentence(live: Live, seat: Seat, run: Run) -> None:
    job = await live.submitted(seat)
    told = await run("jobs", "explain", job)
    assert told.out.startswith("Step draft is queued for the pool openai")
    assert (await run("jobs", "explain", clock.uuid7())).status == 65


async def test_pools_are_listed_from_the_stores(
    live: Live, live_settings: Settings, run: Run, tmp_path: Path
) -> None:
    redis = live_settings.redis.url
    file = tmp_path / "llmgine.toml"
    file.write_text(
        f'ledger = {{url = "{live_settings.ledger.url}"}}\n'
        f'redis = {{url = "{redis}"}}\n'
        f'broker = {{url = "{redis}", prefix = "gateway_test"}}\n'
        "[providers.ollama]\n"
    )
    listed = await run("--config", file, "pools", "list", "--json")
    assert listed.status == 0, listed.err
    found = {one["pool"]: one for one in listed.json["data"]}
    assert found["ollama"]["gate"] == {"state": "open", "until": None}
    assert found["tools"]["workers"] == 0
    table = await run("--config", file, "pools", "list")
    assert "backlogged" in table.out
