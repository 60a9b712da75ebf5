"""Dead letters under load: none missing, each replayed once, and found among 100,000.

Witnesses are the client's 202s and the simulator's log, never the letters themselves.
Ends by itself; status 1 unless all of it holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg

from llmgine_workers import clock
from llmgine_workers.ledger import letter_groups, letters
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.letters import Wanted
from loadtests import witness
from loadtests.drive import Posted, session, until
from loadtests.site import Site, running

MODEL = "openai/gpt-5-mini"
UNSERVED = "anthropic/claude-sonnet-4-5"
"""Of a pool without a worker: the scheduler ends what waits for it."""
WISHES = {
    "provider_rejected": "[[sim:fault=400 step=final times=1]]",
    "provider_auth": "[[sim:fault=401 step=final times=1]]",
    "step_timeout": "[[sim:latency=6s]]",
    "job_timeout": "",
    "template_failed": "",
}
"""What the simulator is asked for, by the code that the job is to fail with."""

MOST_MS = 200.0
FILL = """
insert into letters (id, job_id, tenant, chain, step, pool, error, fingerprint, state)
select id, id, 't' || n % 50, 'chain' || n % 20, 'final', 'openai',
       jsonb_build_object('code', 'code_' || n % 25, 'message', repeat('no ', 60),
           'step', 'final', 'attempts', 1, 'exhausted', false, 'model', null,
           'status', 400, 'request_id', null),
       'print' || n % 300, case when n % 10 = 0 then 'resolved' else 'open' end
from unnest($1::uuid[]) with ordinality as new (id, n)
"""


def job_of(code: str, number: int) -> dict[str, Any]:
    """Two steps; the first succeeds, and a replay must not call it again."""
    model = UNSERVED if code == "job_timeout" else MODEL
    broken = "{{ steps.draft.output.nothing }}" if code == "template_failed" else ""
    steps = [
        {"name": "draft", "llm": {"model": model, "prompt": "{{ inputs.text }}"}},
        {
            "name": "final",
            "llm": {"model": MODEL, "prompt": "{{ inputs.text }}" + broken},
        },
    ]
    return {
        "chain": {"name": f"letters-{code.replace('_', '-')}", "inputs": {
            "text": {"type": "string"}}, "steps": steps},
        "inputs": {"text": f"Job {number}. {WISHES[code]}"},
        "options": {"timeout": "3s" if code.endswith("_timeout") else "10m"},
    }  # fmt: skip


async def fail(site: Site, count: int, codes: list[str]) -> dict[str, str]:
    """So many jobs of each code; answers the code that each accepted one should have."""
    wanted: dict[str, str] = {}
    gate = asyncio.Semaphore(32)

    async def one(client: Any, code: str, number: int) -> None:
        async with gate, client.post("/v1/jobs", json=job_of(code, number)) as answer:
            assert answer.status == 202, await answer.text()
            wanted[(await answer.json())["id"]] = code

    async with session(site) as client, asyncio.TaskGroup() as group:
        for code in codes:
            for number in range(count):
                group.create_task(one(client, code, number))
    posted = Posted(jobs=list(wanted))
    await until(lambda: witness.all_ended(site, posted), "all ended", within_s=240)
    return wanted


async def each_code(site: Site, count: int) -> bool:
    """Letters are the failed jobs, each once, with its code."""
    wanted = await fail(site, count, list(WISHES))
    rows = await site.query("select job_id::text as job, code from letters")
    found = {row["job"]: row["code"] for row in rows}
    doubled = len(rows) - len(found)
    print(f"failed jobs by code {dict(Counter(found.values()))}, {doubled} twice")
    wrong = {job: found.get(job) for job in wanted if found.get(job) != wanted[job]}
    print(f"missing or with another code: {len(wrong)} {Counter(wrong.values())}")
    await site.query("delete from letters")
    return not wrong and not doubled


async def replayed_once(site: Site, count: int, rate: float) -> bool:
    """The same replay twice at once, a worker killed meanwhile."""
    wanted = await fail(site, count, ["provider_rejected"])
    before = len(witness.read_calls(site))
    command = ("dlq", "replay", "--all", "--yes", "--rate", str(rate), "--json")
    twice = [site.asked(*command) for _ in range(2)]
    await asyncio.sleep(count / rate / 2)
    site.kill("openai-0")
    site.spawn("openai-again", "worker", "openai")
    ends = [json.loads((await asyncio.to_thread(one.communicate))[0]) for one in twice]
    keys = ("state", "total", "replayed", "succeeded", "failed", "refused")
    for end in ends:
        print({key: end[key] for key in keys})
    rows = await site.query("select run, state, count(*) from jobs group by 1, 2")
    print("jobs by run and state", [tuple(row) for row in rows])
    calls = Counter(
        call["step"] for call in witness.read_calls(site)[before:]
        if call["job"] in wanted and call["ended"] == "completed"
    )  # fmt: skip
    print(f"calls of the replay {dict(calls)}")
    runs = await site.query(
        "select count(*) from jobs where chain_name = 'letters-provider-rejected' "
        "and run = 1 and state = 'succeeded'"
    )
    return (
        int(runs[0][0]) >= count
        and sum(end["replayed"] for end in ends) == count
        and not calls["draft"]
    )


async def found_among(site: Site, count: int) -> bool:
    """List, groups and filters among so many letters, each measured as the best of 5."""
    connection = await asyncpg.connect(site.postgres.url)
    await connection.execute("set search_path to llmgine")
    for begin in range(0, count, 10_000):
        ids = [clock.uuid7() for _ in range(min(10_000, count - begin))]
        await connection.execute(FILL, ids)
    await connection.execute("vacuum analyze letters")
    await connection.close()
    ledger = Ledger(site.postgres.url, "llmgine")
    asked = {
        "list": Wanted(), "tenant": Wanted(tenant="t7"), "code": Wanted(code="code_3"),
        "fingerprint": Wanted(fingerprint="print7"), "any": Wanted(state=None, chain="x"),
        "several": Wanted(tenant="t7", chain="chain7", code="none", pool="openai"),
    }  # fmt: skip
    took = {name: await _best(_listed(ledger, one)) for name, one in asked.items()}
    took["groups"] = await _best(lambda: letter_groups.listed(ledger, Wanted(), 100))
    took["groups of a tenant"] = await _best(
        lambda: letter_groups.listed(ledger, Wanted(tenant="t7"), 100)
    )
    took["count"] = await _best(lambda: letters.count(ledger, Wanted()))
    await ledger.close()
    print(f"among {count} letters, ms:", {k: round(v, 1) for k, v in took.items()})
    return max(took.values()) < MOST_MS


def _listed(ledger: Ledger, wanted: Wanted) -> Any:
    return lambda: letters.listed(ledger, wanted, limit=200)


async def _best(ask: Any) -> float:
    found = []
    for _ in range(5):
        begun = time.perf_counter()
        await ask()
        found.append(1000 * (time.perf_counter() - begun))
    return min(found)


async def _all(site: Site, arguments: argparse.Namespace) -> bool:
    held = [
        await each_code(site, arguments.each),
        await replayed_once(site, arguments.jobs, arguments.rate),
        await found_among(site, arguments.letters),
    ]
    print("holds:", held)
    return all(held)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=20, help="failed jobs of each code")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs to replay")
    parser.add_argument("--rate", type=float, default=50.0, help="replays per second")
    parser.add_argument("--letters", type=int, default=100_000, help="to find some among")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmgine-") as folder:
        simulator = ("--latency", "lognormal:0.2,0.4")
        pools = ("openai", "openai", "tools")
        with running(Path(folder), workers=pools, slots=200, simulator=simulator) as site:
            sys.exit(0 if asyncio.run(_all(site, arguments)) else 1)


if __name__ == "__main__":
    main()
