"""Commands that speak to a gateway: submit, watch, jobs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmgine_workers.cli import invocation, terminal
from llmgine_workers.cli.exits import JobFailed, Usage
from llmgine_workers.cli.invocation import JsonOption

if TYPE_CHECKING:
    from llmgine_workers.cli.api import Api
    from llmgine_workers.client import Work

_FILE = re.compile(r".*\.(ya?ml|json)|.*/.*", re.S)

jobs = typer.Typer(no_args_is_help=True, help="Look at jobs, and cancel them.")

WhatArgument = Annotated[
    str, typer.Argument(metavar="CHAIN|FILE|tool:NAME", help="What to run.")
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "-i",
        "--input",
        metavar="NAME=TEXT",
        help="An input: name=text, name:=json, name=@file. May be repeated.",
    ),
]
MetadataOption = Annotated[
    list[str] | None, typer.Option("--metadata", metavar="K=V", help="Kept with the job.")
]
PriorityOption = Annotated[
    str | None, typer.Option("--priority", help="interactive, normal or batch")
]
TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", help="For the whole job: 30s, 10m, 2h.")
]
CostOption = Annotated[
    float | None, typer.Option("--max-cost", metavar="USD", help="The job's budget.")
]
WatchOption = Annotated[bool, typer.Option("--watch", help="Follow it live.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait, then print the output.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]


@dataclass(frozen=True)
class _Ask:
    work: Work
    watch: bool
    wait: bool
    as_json: bool


def submit(  # noqa: PLR0913 - a command's options are its parameters
    context: typer.Context,
    what: WhatArgument,
    input_: InputOption = None,
    metadata: MetadataOption = None,
    priority: PriorityOption = None,
    timeout: TimeoutOption = None,
    max_cost: CostOption = None,
    *,
    watch: WatchOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a chain, a chain file or one tool.

    Without --watch and --wait it prints the job's id and returns at once.
    """
    from llmgine_workers.cli import values

    if watch and wait:
        raise Usage("--watch and --wait exclude each other")
    work = _work(what, values.inputs(input_ or ()))
    work["metadata"] = values.texts("--metadata", metadata or ())
    if priority is not None:
        work["priority"] = priority
    if timeout is not None:
        work["timeout"] = timeout
    if max_cost is not None:
        work["max_cost_usd"] = max_cost
    with_api(context, lambda api: _submit(api, _Ask(work, watch, wait, as_json)))


def watch(
    context: typer.Context, job: JobArgument, *, as_json: JsonOption = False
) -> None:
    """Follow a job: tokens as they come, its steps and its cost."""
    with_api(context, lambda api: _follow(api, job, as_json=as_json))


@jobs.command()
def show(
    context: typer.Context,
    job: JobArgument,
    step: Annotated[str | None, typer.Argument(metavar="STEP", help="A path.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show a job, or one of its steps with its attempts."""
    from llmgine_workers.cli import shown

    found = with_api(context, lambda api: _looked_at(api, job, step))
    if as_json:
        terminal.say_json(found)
    elif step:
        shown.step(found)
    else:
        shown.job(found)


@jobs.command()
def steps(
    context: typer.Context, job: JobArgument, *, as_json: JsonOption = False
) -> None:
    """List a job's steps."""
    from llmgine_workers.cli import shown

    found = with_api(context, lambda api: _all_steps(api, job))
    if as_json:
        terminal.say_json({"data": found})
    else:
        shown.steps(found)


def with_api(context: typer.Context, work: Any) -> Any:
    """Do one piece of work with an open connection to the gateway."""
    from llmgine_workers.cli.api import Access, connected

    access = Access.found(invocation.of(context).environ)

    async def connect_and_work() -> Any:
        async with connected(access) as api:
            return await work(api)

    return invocation.wait_for(connect_and_work)


def _work(what: str, inputs: Mapping[str, Any]) -> Work:
    """The part of the request that says what to run."""
    if what.startswith("tool:"):
        return {"tool": what.removeprefix("tool:"), "arguments": inputs}
    if not _FILE.fullmatch(what):
        return {"chain": what, "inputs": inputs}
    from llmgine_workers.cli import chain_files

    return {"chain": chain_files.definition(Path(what)), "inputs": inputs}


async def _looked_at(api: Api, job: str, step: str | None) -> dict[str, Any]:
    found = await (api.calls.step(job, step) if step else api.calls.job(job))
    return found.document()


async def _submit(api: Api, ask: _Ask) -> None:
    if ask.wait:
        _conclude(await _ended(api, ask.work), as_json=ask.as_json)
        return
    job = await api.calls.submit(**ask.work)
    if ask.watch:
        await _followed(api, job.id, as_json=ask.as_json)
    elif ask.as_json:
        terminal.say_json(job.document())
    else:
        terminal.say(job.id)


async def _ended(api: Api, work: Work) -> dict[str, Any]:
    """The job at its end, whichever that is."""
    from llmgine_workers import client

    try:
        return (await api.calls.run(**work)).document()
    except client.JobFailed as failed:
        return failed.job.document()


async def _follow(api: Api, job: str, *, as_json: bool) -> None:
    await api.calls.job(job)  # an absent gateway, or no such job, is told soon
    await _followed(api, job, as_json=as_json)


async def _followed(api: Api, job: str, *, as_json: bool) -> None:
    from llmgine_workers.cli.live import Transcript

    transcript = Transcript()
    async for event in api.streams.stream(job):
        found = event.document()
        told = transcript.add(found)
        if as_json:
            terminal.say(terminal.as_json(found))
        elif told:
            terminal.stream(told)
    ended = (await api.calls.job(job)).document()
    if not as_json and transcript.outcome is None:  # nothing was left to stream
        _conclude(ended, as_json=False)
    _raise_unless_succeeded(ended)


def _conclude(job: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        terminal.say_json(job)
    else:
        if job["state"] == "succeeded":
            terminal.say_value(job["output"])
        cost = terminal.usd(job.get("cost_usd"))
        terminal.note(f"job {job['id']} {job['state']} · {cost}")
    _raise_unless_succeeded(job)


def _raise_unless_succeeded(job: Mapping[str, Any]) -> None:
    if job["state"] == "succeeded":
        return
    error = job.get("error") or {}
    if job["state"] != "failed":
        raise JobFailed(f"the job was {job['state']}")
    where = f" at {error['step']}" if error.get("step") else ""
    letter = job.get("dead_letter")
    mend = f" (llmgine dlq show {letter})" if letter else ""
    raise JobFailed(f"failed{where}: {error.get('code')}: {error.get('message')}{mend}")


async def _all_steps(api: Api, job: str) -> list[dict[str, Any]]:
    return [step.document() async for step in api.calls.steps(job)]
