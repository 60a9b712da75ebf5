"""Dead letters on the command line: list, group, show, close, export, reconcile."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from llmgine_workers.cli import letter_filters as by
from llmgine_workers.cli import reach, terminal
from llmgine_workers.cli.exits import PartlyDone
from llmgine_workers.cli.invocation import JsonOption
from llmgine_workers.errors import LlmgineError

if TYPE_CHECKING:
    from llmgine_workers.ledger.letters import Wanted
    from llmgine_workers.runtime import Runtime

commands = typer.Typer(no_args_is_help=True, help="Dead letters: failed jobs and why.")

_COLUMNS = ("id", "created_at", "tenant", "chain", "step", "code", "message")
_GROUP_COLUMNS = ("fingerprint", "count", "first_seen", "last_seen", "chain", "step",
                  "code", "message", "sample")  # fmt: skip
_PAGE = 500

LetterArgument = Annotated[
    str, typer.Argument(metavar="ID", help="A letter's, a job's, or a replay's.")
]


@commands.command("list")
def list_letters(  # noqa: PLR0913 - a command's options are its parameters
    context: typer.Context,
    tenant: by.TenantOption = None,
    chain: by.ChainOption = None,
    step: by.StepOption = None,
    pool: by.PoolOption = None,
    code: by.CodeOption = None,
    fingerprint: by.FingerprintOption = None,
    since: by.SinceOption = None,
    until: by.UntilOption = None,
    state: by.StateOption = "open",
    *,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, newest first. The broker's queue is never touched."""
    from llmgine_workers import dead_letters

    wanted = by.wanted(
        state, tenant=tenant, chain=chain, step=step, pool=pool, code=code,
        fingerprint=fingerprint, since=since, until=until,
    )  # fmt: skip
    found = reach.stores(context, lambda rt: dead_letters.listed(rt, wanted, limit))
    if as_json:
        terminal.say_json({"data": found})
        return
    rows = [{**one, **(one.get("error") or {}), "step": one["step"]} for one in found]
    terminal.say_table(_COLUMNS, rows, empty="no such dead letters")


@commands.command("groups")
def list_groups(  # noqa: PLR0913 - a command's options are its parameters
    context: typer.Context,
    tenant: by.TenantOption = None,
    chain: by.ChainOption = None,
    step: by.StepOption = None,
    pool: by.PoolOption = None,
    code: by.CodeOption = None,
    since: by.SinceOption = None,
    until: by.UntilOption = None,
    state: by.StateOption = "open",
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Group dead letters by what they say: how many, since when, and a sample."""
    from llmgine_workers import dead_letters

    wanted = by.wanted(
        state, tenant=tenant, chain=chain, step=step, pool=pool, code=code,
        since=since, until=until,
    )  # fmt: skip
    found = reach.stores(context, lambda rt: dead_letters.groups(rt, wanted, limit))
    if as_json:
        terminal.say_json({"data": found})
    else:
        terminal.say_table(_GROUP_COLUMNS, found, empty="no such dead letters")


@commands.command("show")
def show_letter(
    context: typer.Context, letter: LetterArgument, *, as_json: JsonOption = False
) -> None:
    """Show one dead letter with its calls and its request, or how a replay stands."""
    from llmgine_workers import dead_letters
    from llmgine_workers.cli import dlq_replay, shown
    from llmgine_workers.ledger import letter_shapes, replays

    id_ = by.uuid(letter)

    async def look(rt: Runtime) -> tuple[dict[str, Any] | None, Any]:
        found = await dead_letters.show(rt, id_)
        return found, None if found else await replays.found(rt.ledger, id_)

    found, replay = reach.stores(context, look)
    if replay is not None:
        dlq_replay.say(letter_shapes.replay(replay), as_json=as_json)
    elif found is None:
        raise LlmgineError(f"no dead letter {letter}", "not_found")
    elif as_json:
        terminal.say_json(found)
    else:
        shown.letter(found)


@commands.command("discard")
def discard_letters(  # noqa: PLR0913 - a command's options are its parameters
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
    yes: by.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Resolve dead letters without running anything."""
    wanted = by.wanted(
        tenant=tenant, chain=chain, step=step, pool=pool, code=code,
        fingerprint=fingerprint, since=since, until=until,
    )  # fmt: skip
    chosen = by.named(ids, wanted, every=every)
    _close(context, wanted, chosen, "resolved", yes=yes, as_json=as_json)


@commands.command("ignore")
def ignore_letters(  # noqa: PLR0913 - a command's options are its parameters
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
    yes: by.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put dead letters out of sight; a group is open again with the next one."""
    wanted = by.wanted(
        tenant=tenant, chain=chain, step=step, pool=pool, code=code,
        fingerprint=fingerprint, since=since, until=until,
    )  # fmt: skip
    chosen = by.named(ids, wanted, every=every)
    _close(context, wanted, chosen, "ignored", yes=yes, as_json=as_json)


@commands.command("export")
def export_letters(  # noqa: PLR0913 - a command's options are its parameters
    context: typer.Context,
    tenant: by.TenantOption = None,
    chain: by.ChainOption = None,
    step: by.StepOption = None,
    pool: by.PoolOption = None,
    code: by.CodeOption = None,
    fingerprint: by.FingerprintOption = None,
    since: by.SinceOption = None,
    until: by.UntilOption = None,
    state: by.StateOption = "open",
) -> None:
    """Write letters as JSON lines, whole, raw messages in base64 as well."""
    wanted = by.wanted(
        state, tenant=tenant, chain=chain, step=step, pool=pool, code=code,
        fingerprint=fingerprint, since=since, until=until,
    )  # fmt: skip
    reach.stores(context, lambda rt: _export(rt, wanted))


@commands.command()
def reconcile(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Make the broker's dead-letter queue hold exactly the open letters, now."""
    from llmgine_workers import dead_letters

    done = reach.stores(context, dead_letters.reconcile)
    found = [vars(one) for one in done.differences]
    if as_json:
        terminal.say_json({"kept": done.kept, "differences": found})
        return
    terminal.say_table(("what", "letter", "detail"), found, empty="no differences")
    terminal.say(f"{len(found)} differences mended, {done.kept} letters were in place")


async def _export(rt: Runtime, wanted: Wanted) -> None:
    """Page by page, so that memory does not grow with the letters."""
    from llmgine_workers import dead_letters
    from llmgine_workers.ledger import letters

    before: UUID | None = None
    while page := await letters.listed(rt.ledger, wanted, limit=_PAGE, before=before):
        before = page[-1]["id"]
        for row in page:
            found = await dead_letters.show(rt, row["id"])
            raw = row["raw"] and await letters.found(rt.ledger, row["id"])
            if found is not None:
                encoded = base64.b64encode(raw["raw"]).decode() if raw else None
                terminal.say_line({**found, "raw_base64": encoded})


def _close(
    context: typer.Context, wanted: Wanted, ids: list[UUID] | None, state: str,
    *, yes: bool, as_json: bool,
) -> None:  # fmt: skip
    from llmgine_workers import dead_letters
    from llmgine_workers.ledger import letters

    by.check_can_ask(yes=yes)
    verb = "discarded" if state == "resolved" else state
    count = len(ids or ()) or reach.stores(
        context, lambda rt: letters.count(rt.ledger, wanted)
    )
    if count:
        by.ask(f"Have {count} letters {verb}?", yes=yes)
    chosen = wanted if ids is None else ids
    done = reach.stores(
        context, lambda rt: dead_letters.close(rt, chosen, state, by.operator())
    )
    if as_json:
        terminal.say_json({verb: len(done)})
    else:
        terminal.say(f"{len(done)} {verb}")
    if ids and not done:
        raise LlmgineError("no such open letter", "already_resolved")
    if ids and len(done) < len(set(ids)):
        raise PartlyDone(f"{len(done)} of {len(set(ids))} were {verb}")
