"""What it costs to submit: one gateway, posts at rising concurrency, then batches.

    python -m loadtests.submit [--jobs 2000] [--connections 1,8,32,64] [--batches 10]

Starts an installation of its own (no workers: only the submits are measured), prints one
line of JSON per load and ends by itself. `cpu_ms` is the gateway process's user and
system time per job; the stores' and the client's are beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from loadtests import posting
from loadtests.site import Site, running

CHAIN = {
    "name": "one_call",
    "inputs": {"text": {"type": "string", "maxLength": 2000}},
    "steps": [
        {
            "name": "draft",
            "llm": {"model": "openai/gpt-5-mini", "prompt": "Say {{ inputs.text }}"},
        }
    ],
}
WITHIN_S = 120
"""No load may take longer."""


def main(arguments: Sequence[str]) -> None:
    """Run all loads; the exit status is 1 if anything was answered but a 202."""
    options = _parser().parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="submit-") as folder,
        running(Path(folder), slots=2000, simulator=(), workers=()) as site,
    ):
        good = True
        for result in _results(site, options):
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()
            good = good and set(result["statuses"]) == {202}
    sys.exit(0 if good else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.submit")
    parser.add_argument("--jobs", type=int, default=2000, help="singles in one load")
    parser.add_argument("--connections", default="1,8,32,64", help="one load for each")
    parser.add_argument("--batches", type=int, default=10, help="of 1,000 jobs each")
    parser.add_argument("--together", type=int, default=2, help="batches at a time")
    return parser


def _results(site: Site, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    _measured(site, "warm up", _singles(site, 200, "warm"), 8, 200)
    for written in options.connections.split(","):
        singles = _singles(site, options.jobs, written)
        yield _measured(site, "single", singles, int(written), options.jobs)
    keyed = _singles(site, options.jobs, "keyed", keyed=True)
    yield _measured(site, "single, keyed", keyed, 32, options.jobs)
    batches = [_batch(site, n) for n in range(options.batches)]
    yield _measured(site, "batch", batches, options.together, 1000 * options.batches)


def _singles(site: Site, count: int, name: str, *, keyed: bool = False) -> list[bytes]:
    found = []
    for n in range(count):
        body = json.dumps({"chain": CHAIN, "inputs": {"text": f"hello {name} {n}"}})
        more = [f"idempotency-key: {name}-{n}"] if keyed else []
        found.append(_request(site, "/v1/jobs", body, *more))
    return found


def _batch(site: Site, number: int) -> bytes:
    jobs = [
        {"chain": CHAIN, "inputs": {"text": f"hello {number} {n}"}} for n in range(1000)
    ]
    return _request(site, "/v1/batches", json.dumps({"jobs": jobs}))


def _request(site: Site, path: str, body: str, *more: str) -> bytes:
    host = site.url.removeprefix("http://")
    return posting.request(host, path, site.key, body.encode(), *more)


def _measured(
    site: Site, load: str, requests: Sequence[bytes], connections: int, jobs: int
) -> dict[str, Any]:
    host, _, port = site.url.removeprefix("http://").partition(":")
    before, begun = _cpu(site), time.perf_counter()
    answers = asyncio.run(
        posting.post(
            host, int(port), requests, connections=connections, within_s=WITHIN_S
        )
    )
    took, after = time.perf_counter() - begun, _cpu(site)
    spent = {f"{who}_ms": round(1000 * (after[who] - before[who]) / jobs, 3)
             for who in after}  # fmt: skip
    return {
        "load": load,
        "connections": connections,
        "jobs_per_s": round(jobs / took),
        "p50_ms": answers.ms(0.5),
        "p99_ms": answers.ms(0.99),
        "cpu_ms": spent.pop("gateway_ms"),
        **spent,
        "statuses": answers.statuses,
    }


def _cpu(site: Site) -> dict[str, float]:
    """CPU seconds so far; PostgreSQL's with all its processes."""
    ours = site.cpu_seconds()
    mine = psutil.Process().cpu_times()
    return {
        "gateway": ours["gateway"],
        "scheduler": ours["scheduler"],
        "client": mine.user + mine.system,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
