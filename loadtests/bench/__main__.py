"""`python -m loadtests.bench`: runs the benchmarks, writes results, tables and plots.

python -m loadtests.bench --only peers,hints --jobs 500
python -m loadtests.bench readme        # quotes the last results in README.md
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from loadtests.bench import report, results
from loadtests.bench.backlog import backlog
from loadtests.bench.contest import contest
from loadtests.bench.finished import finished
from loadtests.bench.growth import growth
from loadtests.bench.held import held
from loadtests.bench.hints import hints
from loadtests.bench.peer import PEERS_PYTHON

Part = Callable[[Path, argparse.Namespace], Awaitable[dict[str, Any]]]

PARTS: dict[str, Part] = {
    "peers": lambda folder, given: contest(
        folder, given.peers, jobs=given.jobs, seconds=given.seconds, rounds=given.rounds
    ),
    "growth": lambda folder, given: growth(folder, jobs=given.jobs),
    "backlog": lambda folder, given: backlog(folder),
    "finished": lambda folder, given: finished(
        folder, rows=given.finished, jobs=given.jobs // 2
    ),
    "held": lambda folder, given: held(folder, streams=given.streams, seconds=20),
    "hints": lambda folder, given: hints(folder, count=10_000),
}


def main() -> None:
    """Run what was asked for; exit 1 if a part failed, after the others."""
    given = _arguments()
    if given.what == "readme":
        report.write_readme(given.results)
        return
    failed = [name for name in _chosen(given) if not _run(name, given)]
    report.write(given.results)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def _chosen(given: argparse.Namespace) -> list[str]:
    return given.only if given.what == "run" else []


def _run(name: str, given: argparse.Namespace) -> bool:
    print(f"== {name}", flush=True)
    settings = {k: v for k, v in vars(given).items() if isinstance(v, int | float)}
    taking = results.Taking(name, settings)
    try:
        with tempfile.TemporaryDirectory(prefix="llmgine-bench-") as scratch:
            found = uvloop.run(PARTS[name](Path(scratch), given))
    except Exception:  # the other parts take minutes and are worth having
        traceback.print_exc()
        return False
    taking.write(given.results, found)
    return True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="loadtests.bench", description=__doc__)
    add = parser.add_argument
    add("what", nargs="?", default="run", choices=("run", "report", "readme"))
    add("--only", type=_parts, default=list(PARTS), help=f"of {','.join(PARTS)}")
    add("--jobs", type=int, default=2000, help="in each drain")
    add("--seconds", type=float, default=8, help="of each steady load")
    add("--rounds", type=int, default=1, help="of all systems in turn")
    add("--finished", type=int, default=1_000_000, help="jobs in the full ledger")
    add("--streams", type=int, default=2000, help="held in one worker")
    add("--peers", type=Path, default=PEERS_PYTHON, help="the peers' Python")
    add("--results", type=Path, default=results.FOLDER, help="where they are written")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - PARTS.keys():
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()
