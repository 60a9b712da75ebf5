"""The verdict over three independent logs: the client's 202s, the simulator's, ours."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp

from loadtests.drive import Posted, session
from loadtests.site import Site

Call = dict[str, Any]


@dataclass
class Verdict:
    """Everything that must be 0, and the numbers that must agree.

    A killed process leaves as ambiguous what was cut, what it had claimed and not sent
    yet, and what it had been answered and not committed yet; only the last is paid twice.
    """

    accepted: int
    lost: int
    not_succeeded: int
    completed_calls: int
    paid_twice: int
    paid_twice_unexplained: int
    cut_by_kills: int
    ambiguous: int
    ambiguous_answered: int
    ambiguous_unsent: int
    ambiguous_unexplained: int
    wrong_texts: int

    @property
    def holds(self) -> bool:
        """Whether the promise held: nothing lost, nothing wrong, no unexplained call."""
        return not (
            self.lost
            or self.not_succeeded
            or self.paid_twice_unexplained
            or self.ambiguous_unexplained
            or self.wrong_texts
        )

    def __str__(self) -> str:
        return json.dumps({**asdict(self), "holds": self.holds}, indent=1)


async def judge(site: Site, posted: Posted) -> Verdict:
    """Read the three logs and compare them."""
    calls = read_calls(site)
    shown = await shown_jobs(site, posted)
    completed = Counter(_step(c) for c in calls if c["ended"] == "completed")
    cut = [c for c in calls if c["ended"] == "cut"]
    ambiguous = await _ambiguous(site)
    twice = {step: n - 1 for step, n in completed.items() if n > 1}
    seen = {_attempt(c): c["ended"] for c in calls}
    return Verdict(
        accepted=len(posted.jobs),
        lost=len(posted.jobs) - len(shown),
        not_succeeded=sum(job["state"] != "succeeded" for job in shown.values()),
        completed_calls=sum(completed.values()),
        paid_twice=sum(twice.values()),
        paid_twice_unexplained=sum(
            extra - sum(a[:2] == step for a in ambiguous) > 0
            for step, extra in twice.items()
        ),
        cut_by_kills=len(cut),
        ambiguous=len(ambiguous),
        ambiguous_answered=sum(seen.get(one) == "completed" for one in ambiguous),
        ambiguous_unsent=sum(one not in seen for one in ambiguous),
        ambiguous_unexplained=len({_attempt(c) for c in cut} - ambiguous)
        + sum(seen.get(one) == "refused" for one in ambiguous),
        wrong_texts=_wrong_texts(calls, shown),
    )


def read_calls(site: Site) -> list[Call]:
    """The last word of the simulator on every call."""
    by_number: dict[int, Call] = {}
    for line in site.calls.read_text().splitlines():
        record = json.loads(line)
        by_number[record["n"]] = {**by_number.get(record["n"], {}), **record}
    return list(by_number.values())


async def shown_jobs(site: Site, posted: Posted) -> dict[str, Any]:
    """Every accepted job that has ended, as the gateway shows it."""
    found: dict[str, Any] = {}
    gate = asyncio.Semaphore(16)

    async def look(client: aiohttp.ClientSession, job: str) -> None:
        async with gate, client.get(f"/v1/jobs/{job}") as answer:
            shown = await answer.json()
        if shown.get("state") in ("succeeded", "failed", "cancelled"):
            found[job] = shown

    async with session(site) as client, asyncio.TaskGroup() as group:
        for job in posted.jobs:
            group.create_task(look(client, job))
    return found


async def all_ended(site: Site, posted: Posted) -> bool:
    """Whether no job is active any more, by one query."""
    rows = await site.query("select count(*) from jobs where state = 'active'")
    return bool(rows[0][0] == 0)


async def calls_open(site: Site) -> int:
    """Calls that the ledger believes to be running."""
    rows = await site.query("select count(*) from steps where state = 'running'")
    return int(rows[0][0])


async def _ambiguous(site: Site) -> set[tuple[str, str, int]]:
    rows = await site.query(
        "select job_id::text, path, n from attempts where state = 'ambiguous'"
    )
    return {(row[0], row[1], row[2]) for row in rows}


def _wrong_texts(calls: list[Call], shown: dict[str, Any]) -> int:
    finals: dict[str, set[str]] = {}
    for call in calls:
        if call["step"] == "final" and call["ended"] == "completed":
            finals.setdefault(call["job"], set()).add(call["text_sha256"])
    return sum(
        hashlib.sha256(job["output"].encode()).hexdigest() not in finals.get(id_, set())
        for id_, job in shown.items()
        if job["state"] == "succeeded"
    )


def _step(call: Call) -> tuple[str, str]:
    return call["job"], call["step"]


def _attempt(call: Call) -> tuple[str, str, int]:
    return call["job"], call["step"], int(call["attempt"])
