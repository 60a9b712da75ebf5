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
    from llmgine_workers.client.calls import Wanted

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
    found = use.with_api(context, lambda api: _explained(api, job))
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
) -> Wanted:
    """What these filters name."""
    from datetime import datetime

    from llmgine_workers.cli import values

    found: Wanted = {}
    if state is not None:
        found["state"] = state
    if chain is not None:
        found["chain"] = chain
    if batch is not None:
        found["batch"] = batch
    if metadata:
        found["metadata"] = values.texts("--metadata", metadata)
    if since is not None:
        found["created_after"] = datetime.fromisoformat(values.moment("--since", since))
    return found


async def _explained(api: Api, job: str) -> dict[str, Any]:
    return (await api.calls.explain(job)).document()


async def _listed(api: Api, wanted: Wanted, limit: int | None) -> list[dict[str, Any]]:
    return [job.document() async for job in api.calls.jobs(limit=limit, **wanted)]


async def _unfinished(api: Api, wanted: Wanted) -> list[str]:
    states = [wanted["state"]] if "state" in wanted else list(_UNFINISHED)
    # A job that moves on in between is met twice, or not at all: cancelling says which.
    found = [
        job["id"]
        for state in states
        for job in await _listed(api, _in_state(wanted, state), None)
    ]
    return list(dict.fromkeys(found))


def _in_state(wanted: Wanted, state: str) -> Wanted:
    return {**wanted, "state": state}


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
    from llmgine_workers.client import Refused

    try:
        await api.calls.cancel(job)
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
