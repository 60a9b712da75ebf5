"""The results as Markdown: a table for each part, and ours as ratios of the peers'."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from loadtests.bench.figures import ratio

Found = dict[str, Any]
OURS, BASELINE = "llmgine", "Celery"
MIDDLE = ("p50", "p99")


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def middle(rounds: Sequence[Found], *path: str | int) -> float:
    """The median over the rounds of one figure."""
    return round(median(_at(one, path) for one in rounds), 2)


def peers(found: Found) -> str:
    """Every system at its best setting: rates, CPU, dispatch, memory."""
    heads = [
        "", "setting", "jobs/s", "submits/s", "CPU ms per job", "stores' CPU ms",
        "dispatch ms at 50/s", "at 100/s", "RSS MB",
    ]  # fmt: skip
    parts = []
    for kind in ("plain", "streamed"):
        rows = [_peer_row(name, kind, found) for name in found["rounds"]]
        parts.append(
            f"\n**{kind}**\n\n{table(heads if kind == 'plain' else _short(heads), rows)}"
        )
    return "".join(parts)


def _short(heads: Sequence[str]) -> list[str]:
    return [head for head in heads if "00/s" not in head and "50/s" not in head]


def _peer_row(name: str, kind: str, found: Found) -> list[Any]:
    rounds = found["rounds"][name]
    stores = sum(
        middle(rounds, kind, "store_cpu_ms_per_job", one)
        for one in ("RabbitMQ", "PostgreSQL", "Redis")
    )
    dispatched = [
        " / ".join(
            _figure(middle(rounds, "steady", at, "dispatch_ms", p)) for p in MIDDLE
        )
        for at in (0, 1)
    ]
    return [
        shown(name),
        found["settings"][name],
        middle(rounds, kind, "jobs_per_s"),
        middle(rounds, kind, "submits_per_s"),
        middle(rounds, kind, "cpu_ms_per_job"),
        round(stores, 2),
        *(dispatched if kind == "plain" else []),
        middle(rounds, kind, "rss_mb"),
    ]


def shown(name: str) -> str:
    """A system's name in tables and plots."""
    return "llmgine-workers" if name == OURS else f"FastAPI + {name}"


def aims(found: Found, batched_submits_per_s: float | None) -> str:
    """Ours divided by FastAPI + Celery, beside what it is meant to be."""
    ours, theirs = found["rounds"][OURS], found["rounds"][BASELINE]

    def times(*path: str | int) -> str:
        return f"{ratio(middle(ours, *path), middle(theirs, *path)):.3g} x"

    late = middle(ours, "steady", 1, "dispatch_ms", "p99")
    rows = [
        ["CPU per plain job", times("plain", "cpu_ms_per_job"), "<= 0.4 x"],
        ["CPU per streamed job", times("streamed", "cpu_ms_per_job"), "<= 0.25 x"],
        ["submits/s, one by one", times("plain", "submits_per_s"), ">= 1.5 x"],
        ["dispatch p50 at 50/s", times("steady", 0, "dispatch_ms", "p50"), "<= 1 x"],
        ["dispatch p99 at 100/s", f"{_figure(late)} ms", "<= 25 ms"],
    ]
    if batched_submits_per_s:
        single = middle(theirs, "plain", "submits_per_s")
        many = f"{ratio(batched_submits_per_s, single):.3g} x"
        rows.insert(3, ["submits/s in batches of 1,000", many, ">= 10 x"])
    return table([f"{shown(OURS)} : {shown(BASELINE)}", "seen", "aim"], rows)


def trials(found: Found) -> str:
    """The calibration: a short drain at every setting."""
    rows = [
        [
            shown(name),
            one["setting"],
            one["jobs_per_s"],
            one["cpu_ms_per_job"],
            one["rss_mb"],
        ]
        for name, tried in found["trials"].items()
        for one in tried
    ]
    return table(["", "calls at once", "jobs/s", "CPU ms per job", "RSS MB"], rows)


def growth(found: Found) -> str:
    """Workers, sizes, batches."""
    heads = ["", "jobs/s", "submits/s", "CPU ms per job", "PostgreSQL ms", "POST p99 ms"]
    rows = [[f"{one['workers']} workers", *_drained(one)] for one in found["workers"]]
    rows += [[f"{one['bytes']:,} bytes", *_drained(one)] for one in found["sizes"]]
    batches = found["batches"]
    rows.append(
        [
            "batches of 1,000",
            "",
            batches["submits_per_s"],
            "",
            "",
            batches["batch_ms"]["p99"],
        ]
    )
    return table(heads, rows)


def _drained(one: Found) -> list[Any]:
    return [
        one["jobs_per_s"],
        one["submits_per_s"],
        one["cpu_ms_per_job"],
        one["store_cpu_ms_per_job"]["PostgreSQL"],
        one["post_ms"]["p99"],
    ]


def backlog(found: Found) -> str:
    """What a held backlog costs those that come after it."""
    heads = ["backlog", "submits/s in batches", "POST p50 / p99 ms", "ended/s",
             "worker ms per job", "PostgreSQL ms per job"]  # fmt: skip
    rows = [
        [
            f"{one['backlog']:,}",
            one["batched_submits_per_s"],
            " / ".join(_figure(one["post_ms"][p]) for p in MIDDLE),
            one["ended_per_s"],
            one["cpu_ms_by_process"]["openai-0"],
            one["cpu_ms_by_process"]["PostgreSQL"],
        ]
        for one in found["backlogs"]
    ]
    return table(heads, rows)


def finished(found: Found) -> str:
    """The same load beside nothing and beside many finished jobs."""
    heads = ["finished jobs", "jobs/s", "submits/s", "CPU ms per job", "PostgreSQL ms",
             "dispatch p50 / p99 ms"]  # fmt: skip
    rows = [
        [
            f"{one['finished']:,}",
            *_drained(one["drain"])[:-1],
            " / ".join(_figure(one["steady"]["dispatch_ms"][p]) for p in MIDDLE),
        ]
        for one in found["loads"]
    ]
    dropped = (
        f"\nDropping a day of {found['jobs_in_dropped_day']:,} jobs took "
        f"{found['drop_s']:g} s; the full ledger was {found['gigabytes']:g} GB.\n"
    )
    return table(heads, rows) + dropped


def held(found: Found) -> str:
    """One worker process full of slow streams."""
    rows = [
        ["streams at 5 chunks/s in one worker", f"{found['streams']:,}", ""],
        ["of them ended whole", f"{found['ended_whole']:,}", ""],
        ["RSS, MB", found["rss_mb"], "< 300"],
        ["loop lag p99, ms", found["lag_p99_ms"], "< 100"],
        ["longest time between heartbeats, s", found["heartbeat_gap_s"], "< 6"],
        ["cores used by the worker", found["cores"], ""],
    ]
    return table(["", "seen", "aim"], rows)


def hints(found: Found) -> str:
    """Publishing alone."""
    rows = [["hints confirmed a second", f"{found['per_s']:,}", ">= 10,000"],
            ["CPU us each", found["cpu_us_each"], ""]]  # fmt: skip
    return table(["", "seen", "aim"], rows)


PARTS: dict[str, tuple[str, Callable[[Found], str]]] = {
    "peers": ("Beside FastAPI with Celery, Dramatiq and Taskiq", peers),
    "growth": ("More workers, larger jobs, batches", growth),
    "backlog": ("In front of a backlog", backlog),
    "finished": ("Beside finished jobs", finished),
    "held": ("Many slow streams in one process", held),
    "hints": ("Publishing alone", hints),
}


def _at(found: Any, path: Sequence[str | int]) -> float:
    for key in path:
        found = found[key]
    return float(found)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return _figure(value)
    return str(value)


def _figure(value: float) -> str:
    """No more digits than a run on one machine can mean."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
