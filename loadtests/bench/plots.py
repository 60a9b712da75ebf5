"""Which plots a part of the results has: their titles and their bars."""

from __future__ import annotations

from typing import Any

from loadtests.bench.charts import bars
from loadtests.bench.tables import middle, shown

Found = dict[str, Any]


def of(part: str, found: Found) -> dict[str, str]:
    """The part's plots by the name of their file; most parts have none."""
    drawn = {"peers": _peers, "growth": _growth, "backlog": _backlog}
    return drawn[part](found) if part in drawn else {}


def _peers(found: Found) -> dict[str, str]:
    cpu: dict[str, dict[str, float]] = {}
    dispatch: dict[str, dict[str, float]] = {}
    for name, rounds in found["rounds"].items():
        cpu[shown(name)] = {
            kind: middle(rounds, kind, "cpu_ms_per_job") for kind in ("plain", "streamed")
        }
        dispatch[shown(name)] = {
            p: middle(rounds, "steady", 0, "dispatch_ms", p) for p in ("p50", "p99")
        }
    late = "Dispatch at 50 jobs/s: from the POST until the provider has the call"
    return {
        "cpu": bars("CPU per job, all Python processes", cpu, "ms"),
        "dispatch": bars(late, dispatch, "ms"),
    }


def _growth(found: Found) -> dict[str, str]:
    workers = {
        f"{one['workers']} workers": {"jobs/s": one["jobs_per_s"]}
        for one in found["workers"]
    }
    sizes = {
        f"{one['bytes']:,} bytes": {"CPU per job": one["cpu_ms_per_job"]}
        for one in found["sizes"]
    }
    return {
        "workers": bars("Jobs a second with more worker processes", workers, "/s"),
        "sizes": bars("CPU per job with larger prompts", sizes, "ms"),
    }


def _backlog(found: Found) -> dict[str, str]:
    ended = {
        f"{one['backlog']:,} jobs": {"jobs/s": one["ended_per_s"]}
        for one in found["backlogs"]
    }
    title = "Jobs a second, released, claimed and ended, out of a backlog"
    return {"backlog": bars(title, ended, "/s")}
