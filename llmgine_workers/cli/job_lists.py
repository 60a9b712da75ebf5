"""Several jobs at once: list, cancel; and why one is where it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmgine_workers.cli import terminal, use
from llmgine_workers.cli.exits import PartlyDone, Usage
from llmgine_workers.cli.invocation import JsonOption
from llmgine_workers.errors import LlmgineError

if TYPE_CHECKING:
    from llmgine_workers.cli.api import Api

jobs = use.jobs
_COLUMNS = ("id", "created_at", "chain", "state", "cost_usd", "note")
_UNFINISHED = ("queued", "running", "waiting")
_MAX_PAGE = 200
_AT_ONCE = 8
_ENDED = ("already_finished", "not_found")

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="JOB...", help="Ids of jobs.")
]
StateOption = Annotated[
    str | None,
    typer.Option("--state", help="queued running waiting succeeded failed cancelled"),
]
ChainOption = Annotated[str | None, typer.Option("--chain", help="A chain's name.")]
BatchOption = Annotated[str | None, typer.Option("--batch", help="A batch's id.")]
MetadataOption = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="K=V", help="May be repeated."),
]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="An age (2h) or RFC 3339."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Only say which.")]


@jobs.command("list")
def list_jobs(  # noqa: PLR0913 - a command's options are its parameters
    context: typer.Context,
    state: StateOption = None,
    chain: ChainOption = None,
    batch: BatchOption = None,
    metadata: MetadataOption = None,
    since: SinceOption = None,
    *,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    wanted = _wanted(state, chain, batch, metadata, since)
    found = use.with_api(context, lambda api: _listed(api, wanted, limit))
    if as_json:
        terminal.say_json({"data": found})
    else:
        terminal.say_table(_COLUMNS, map(_row, found), empty="no such jobs")


@jobs.command("cancel")
def cancel_jobs(  # noqa: PLR0913 - a command's options are its parameters
    context: typer.Context,
    ids: IdsArgument = None,
    state: StateOption = None,
    chain: ChainOption = None,
    batch: BatchOption = None,
    metadata: MetadataOption = None,
    since: SinceOption = None,
    *,
    yes: YesOption = False,
    dry_run: DryOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cancel jobs by their ids, or all unfinished ones that filters name.

    Filters ask first; without a terminal they need --yes.
    """
    wanted = _wanted(state, chain, batch, metadata, since)
    if bool(ids) == bool(wanted):
        raise Usage("name jobs by their ids, or by filters")
    chosen = ids or use.with_api(context, lambda api: _unfinished(api, wanted))
    if dry_run:
        _say_chosen(chosen, as_json=as_json)
        return
    if wanted and chosen and not yes:
        _ask(len(chosen))
    done = use.with_api(context, lambda api: _cancel_all(api, chosen))
    _conclude(done, as_json=as_json)


@jobs.command("explain")
def explain_job(
    context: typer.Context, job: use.JobArgument, *, as_json: JsonOption = False
) -> None:
    """Say why a job is where it is."""
    found = use.with_api(context, lambda api: api.get(f"{use.path(job)}/explain"))
    if as_json:
        terminal.say_json(found)
    else:
        terminal.say(found["sentence"])


def _wanted(
    state: str | None,
    chain: str | None,
    batch: str | None,
    metadata: Sequence[str] | None,
    since: str | None,
) -> dict[str, str]:
    """The query of these filters."""
    from llmgine_workers.cli import values

    named = {"state": state, "chain": chain, "batch": batch}
    found = {name: value for name, value in named.items() if value is not None}
    for name, value in values.texts("--metadata", metadata or ()).items():
        found[f"metadata.{name}"] = value
    if since is not None:
        found["created_after"] = values.moment("--since", since)
    return found


async def _listed(
    api: Api, wanted: Mapping[str, str], limit: int | None
) -> list[dict[str, Any]]:
    """Page by page; a page may be empty and have a next one."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while limit is None or len(found) < limit:
        size = _MAX_PAGE if limit is None else min(_MAX_PAGE, limit - len(found))
        page = await api.get("/v1/jobs", **wanted, **cursor, limit=size)
        found += page["data"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    return found


async def _unfinished(api: Api, wanted: Mapping[str, str]) -> list[str]:
    states = [wanted["state"]] if "state" in wanted else list(_UNFINISHED)
    # A job that moves on in between is met twice, or not at all: cancelling says which.
    found = [
        job["id"]
        for state in states
        for job in await _listed(api, {**wanted, "state": state}, None)
    ]
    return list(dict.fromkeys(found))


async def _cancel_all(api: Api, ids: Sequence[str]) -> dict[str, list[str]]:
    """Ids by what became of them: `cancelled`, or the code of the refusal."""
    import asyncio

    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(job: str) -> str:
        async with turns:
            return await _cancel(api, job)

    ends = await asyncio.gather(*(one(job) for job in ids))
    done: dict[str, list[str]] = {"cancelled": []}
    for job, end in zip(ids, ends, strict=True):
        done.setdefault(end, []).append(job)
    return done


async def _cancel(api: Api, job: str) -> str:
    from llmgine_workers.cli.api import Refused

    try:
        await api.post(f"{use.path(job)}/cancel", None, {})
    except Refused as refused:
        if refused.code not in _ENDED:
            raise
        return refused.code
    return "cancelled"


def _ask(count: int) -> None:
    if not sys.stdin.isatty():
        raise Usage("without a terminal this needs --yes")
    if not typer.confirm(f"Cancel {count} jobs?", err=True):
        raise typer.Exit


def _say_chosen(ids: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        terminal.say_json({"data": list(ids)})
    else:
        for job in ids:
            terminal.say(job)
        terminal.note(f"{len(ids)} would be cancelled")


def _conclude(done: Mapping[str, Sequence[str]], *, as_json: bool) -> None:
    if as_json:
        terminal.say_json(done)
    else:
        for end, ids in done.items():
            for job in ids:
                terminal.say(f"{job} {end}")
    refused = {end: len(ids) for end, ids in done.items() if end != "cancelled"}
    if refused:
        told = ", ".join(f"{count} {end}" for end, count in refused.items())
        if done["cancelled"]:
            raise PartlyDone(f"{len(done['cancelled'])} cancelled, {told}")
        raise LlmgineError(told, next(iter(refused)))


def _row(job: Mapping[str, Any]) -> dict[str, Any]:
    error, waiting = job.get("error") or {}, job.get("waiting") or {}
    note = error.get("code") or waiting.get("detail") or waiting.get("reason")
    return {**job, "chain": job["chain"]["name"], "note": note}
