"""`llmgine dlq replay`: say what it means, ask, write the action, watch it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from llmgine_workers.cli import dlq, reach, terminal, values
from llmgine_workers.cli import letter_filters as by
from llmgine_workers.cli.exits import PartlyDone, Usage
from llmgine_workers.cli.invocation import JsonOption
from llmgine_workers.errors import LlmgineError

if TYPE_CHECKING:
    from llmgine_workers.engine.replays import Asked
    from llmgine_workers.ledger.replays import Extent
    from llmgine_workers.runtime import Runtime

commands = dlq.commands

LOOK_S = 0.3
STUCK_S = 10.0
"""Without a step forward for so long, the scheduler may not be running."""
TOLD = 20
"""Letters that are named one by one; the replay has them all."""

RateOption = Annotated[float, typer.Option("--rate", help="Jobs per second.")]
CanaryOption = Annotated[int, typer.Option("--canary", help="So many first.")]
StopOption = Annotated[
    str | None,
    typer.Option("--stop-if-fail", metavar="SHARE", help="Of the canaries, as 20%."),
]
EditOption = Annotated[
    list[str] | None,
    typer.Option(
        "--edit",
        metavar="NAME=VALUE",
        help="prompt=, model=, inputs:=JSON.",
    ),
]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Only say what it means.")]


@commands.command("replay")
def replay_letters(  # noqa: PLR0913 - a command's options are its parameters
    context: typer.Context,
    ids: by.IdsArgument = None,
    tenant: by.TenantOption = None,
    chain: by.ChainOption = None,
    step: by.StepOption = None,
    pool: by.PoolOption = None,
    code: by.CodeOption = None,
    fingerprint: by.FingerprintOption = None,
    since: by.SinceOption = None,
    until: by.UntilOption = None,
    *,
    every: by.AllOption = False,
    rate: RateOption = 50.0,
    canary: CanaryOption = 0,
    stop_if_fail: StopOption = None,
    edit: EditOption = None,
    dry_run: DryOption = False,
    yes: by.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run failed jobs again, each from the step that failed.

    The scheduler does it: ended here, it goes on all the same.
    """
    from llmgine_workers.engine import replays
    from llmgine_workers.ledger.replays import Chosen

    wanted = by.wanted(
        tenant=tenant, chain=chain, step=step, pool=pool, code=code,
        fingerprint=fingerprint, since=since, until=until,
    )  # fmt: skip
    named = by.named(ids, wanted, every=every)
    asked = replays.Asked(
        Chosen(wanted, named), by.operator(), None, rate, canary,
        _share(stop_if_fail), values.inputs(edit or ()) or None,
    )  # fmt: skip
    by.check_can_ask(yes=yes or dry_run)
    found = reach.stores(context, lambda rt: replays.look(rt, asked))
    if dry_run or not found.total:
        _say_extent(found, as_json=as_json)
        return
    by.ask(f"{_sentence(found)}. Replay?", yes=yes)
    done = reach.stores(context, lambda rt: _carry_out(rt, asked, quiet=as_json))
    say(done, as_json=as_json)
    _conclude(done)


@commands.command("abort")
def abort_replay(
    context: typer.Context,
    replay: Annotated[str, typer.Argument(metavar="REPLAY", help="A replay's id.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Let a replay start no more jobs; those it has started go on."""
    from llmgine_workers.engine import replays

    id_ = by.uuid(replay)

    async def abort(rt: Runtime) -> tuple[bool, dict[str, Any]]:
        done = await replays.abort(rt, id_, by.operator())
        return done, await _standing(rt, id_)

    is_done, found = reach.stores(context, abort)
    say(found, as_json=as_json)
    if not is_done:
        raise LlmgineError(f"the replay is {found['state']}", "already_finished")


def say(found: Mapping[str, Any], *, as_json: bool) -> None:
    """How a replay stands."""
    if as_json:
        terminal.say_json(found)
        return
    terminal.say(f"replay   {found['id']} {found['state']}")
    terminal.say(f"letters  {_progress(found)}")
    terminal.say(f"cost     at most {terminal.usd(found['estimated_usd'])}")
    terminal.say(f"by       {found['asked_by']} at {found['created_at']}")
    if found["reason"]:
        terminal.say(f"reason   {found['reason']}")


async def _carry_out(rt: Runtime, asked: Asked, *, quiet: bool) -> dict[str, Any]:
    from llmgine_workers.engine import replays
    from llmgine_workers.ledger import replays as ledger_replays

    id_ = await replays.start(rt, asked)
    terminal.note(f"replay {id_} goes on if this is ended (llmgine dlq show, abort)")
    found = await _watched(rt, id_, quiet=quiet)
    refused = await ledger_replays.first_letters(rt.ledger, id_, TOLD, state="refused")
    for one in refused:
        terminal.note(f"not replayed {one['letter']}: {one['refused']}")
    if not quiet and found["total"] <= TOLD:
        for one in await ledger_replays.first_letters(rt.ledger, id_, TOLD):
            if one["state"] != "refused":
                terminal.say(
                    f"{one['state']:9} {one['letter']}: llmgine watch {one['job']}"
                )
    return found


async def _watched(rt: Runtime, id_: UUID, *, quiet: bool) -> dict[str, Any]:
    told, moved_at = "", asyncio.get_running_loop().time()
    while True:
        found = await _standing(rt, id_)
        if found["state"] != "running":
            return found
        now, line = asyncio.get_running_loop().time(), _progress(found)
        if line != told:
            told, moved_at = line, now
            if not quiet:
                terminal.note(line)
        elif now - moved_at > STUCK_S:
            moved_at = now
            terminal.note("nothing has moved for 10 s: do scheduler and workers run?")
        await asyncio.sleep(LOOK_S)


async def _standing(rt: Runtime, id_: UUID) -> dict[str, Any]:
    from llmgine_workers.ledger import letter_shapes, replays

    row = await replays.found(rt.ledger, id_)
    if row is None:
        raise LlmgineError(f"no replay {id_}", "not_found")
    return letter_shapes.replay(row)


def _progress(found: Mapping[str, Any]) -> str:
    counts = ("replayed", "succeeded", "failed", "cancelled", "refused", "pending")
    told = ", ".join(f"{found[name]} {name}" for name in counts if found[name])
    return f"{told or 'nothing yet'} of {found['total']}"


def _say_extent(found: Extent, *, as_json: bool) -> None:
    usd = None if found.estimated is None else found.estimated / 1_000_000
    if as_json:
        terminal.say_json({
            "total": found.total, "resolved": found.resolved, "calls": found.calls,
            "estimated_usd": usd,
        })  # fmt: skip
    else:
        terminal.say(_sentence(found) if found.total else "no such dead letters")


def _sentence(found: Extent) -> str:
    usd = None if found.estimated is None else found.estimated / 1_000_000
    resolved = f" ({found.resolved} resolved already)" if found.resolved else ""
    jobs = found.total - found.resolved
    return f"{jobs} jobs{resolved}, {found.calls} calls, at most {terminal.usd(usd)}"


def _share(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise Usage(f"--stop-if-fail {text[:60]}: write 20% or 0.2") from None


def _conclude(found: Mapping[str, Any]) -> None:
    if found["succeeded"] == found["total"]:
        return
    if found["state"] in ("stopped", "aborted"):
        raise PartlyDone(f"{found['state']}: {found['reason']}")
    if not found["replayed"]:
        raise LlmgineError("nothing was replayed", "already_resolved")
    if found["failed"] == found["total"]:
        raise LlmgineError("every job failed again", "job_failed")
    raise PartlyDone(f"{found['succeeded']} of {found['total']} jobs succeeded")
