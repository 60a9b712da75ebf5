"""Commands that go to the stores: status, dlq, keys, prune, doctor; chains lint."""

from __future__ import annotations

import getpass
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from llmgine_workers.cli import invocation, terminal
from llmgine_workers.cli.exits import PartlyDone, Usage
from llmgine_workers.cli.invocation import JsonOption
from llmgine_workers.errors import LlmgineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgine_workers.runtime import Runtime

dlq = typer.Typer(no_args_is_help=True, help="Dead letters: failed jobs and why.")
keys = typer.Typer(no_args_is_help=True, help="API keys.")
chains = typer.Typer(no_args_is_help=True, help="Chains.")

_LETTER_COLUMNS = ("id", "created_at", "tenant", "chain", "step", "code", "message")
_KEY_COLUMNS = ("id", "tenant", "scopes", "created_at", "revoked_at")
_POOL_COLUMNS = ("pool", "queued", "running", "waiting", "workers", "slots", "published")

LetterArgument = Annotated[str, typer.Argument(metavar="ID", help="A letter's or job's.")]


def status(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Say what each pool does, how many letters are open, and what is down."""
    from llmgine_workers.cli import overview

    given = invocation.of(context)
    settings = given.settings()
    found = invocation.wait_for(lambda: overview.of(settings, given.environ))
    if as_json:
        terminal.say_json(found)
    else:
        terminal.say_table(_POOL_COLUMNS, found["pools"], empty="no pools yet")
        terminal.say(f"open dead letters: {found['dead_letters']}")
        for name, reason in found["down"].items():
            terminal.say(f"DOWN {name}: {reason}")
    if found["down"]:
        down = ", ".join(found["down"])
        raise LlmgineError(f"{down} does not answer", "dependency_down")


@dlq.command("list")
def list_letters(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List the open dead letters, newest first."""
    from llmgine_workers import dead_letters

    found = _with_stores(context, lambda rt: dead_letters.list_open(rt, limit))
    if as_json:
        terminal.say_json({"data": found})
        return
    rows = [{**one, **(one.get("error") or {}), "step": one["step"]} for one in found]
    terminal.say_table(_LETTER_COLUMNS, rows, empty="no open dead letters")


@dlq.command("show")
def show_letter(
    context: typer.Context, letter: LetterArgument, *, as_json: JsonOption = False
) -> None:
    """Show one dead letter."""
    from llmgine_workers import dead_letters
    from llmgine_workers.cli import shown

    id_ = _uuid(letter)
    found = _with_stores(context, lambda rt: dead_letters.show(rt, id_))
    if found is None:
        raise LlmgineError(f"no dead letter {letter}", "not_found")
    if as_json:
        terminal.say_json(found)
    else:
        shown.letter(found)


@dlq.command("replay")
def replay_letters(
    context: typer.Context,
    letters: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Letters or jobs.")
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Run failed jobs again, each from the step that failed."""
    from llmgine_workers.engine.replay import replay

    ids = [_uuid(letter) for letter in letters]
    done = _with_stores(context, lambda rt: replay(rt, ids, _operator()))
    refused = [one for one in done if one.refused]
    if as_json:
        terminal.say_json({"data": [vars(one) for one in done]})
    else:
        for one in done:
            if not one.refused:
                terminal.say(f"replayed {one.letter}: llmgine watch {one.job}")
    for one in refused:
        terminal.note(f"not replayed {one.letter}: {one.refused}")
    if len(refused) == len(done):
        raise LlmgineError("nothing was replayed", "already_resolved")
    if refused:
        raise PartlyDone(f"{len(done) - len(refused)} of {len(done)} were replayed")


@dlq.command()
def reconcile(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Make the broker's dead-letter queue hold exactly the open letters, now."""
    from llmgine_workers import dead_letters

    done = _with_stores(context, dead_letters.reconcile)
    if as_json:
        terminal.say_json(done)
    else:
        terminal.say(", ".join(f"{count} {name}" for name, count in done.items()))


@keys.command()
def create(
    context: typer.Context,
    *,
    tenant: Annotated[str, typer.Option(help="Whose jobs the key sees.")],
    scope: Annotated[
        list[str], typer.Option(help="submit, read, payloads, operate or admin.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once."""
    from llmgine_workers.cli import installation

    key = _with_ledger(
        context, lambda ledger: installation.create_key(ledger, tenant, scope)
    )
    if as_json:
        terminal.say_json({"id": key.id, "key": key.text, "tenant": tenant})
    else:
        terminal.note(f"key {key.id} of {tenant}; it is not stored, so keep it now:")
        terminal.say(key.text)


@keys.command("list")
def list_keys(
    context: typer.Context,
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this one's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List keys: never their secrets."""
    from llmgine_workers import clock
    from llmgine_workers.ledger import api_keys

    found = _with_ledger(context, lambda ledger: api_keys.listed(ledger, tenant))
    rows = [
        {
            "id": key.id,
            "tenant": key.tenant,
            "scopes": sorted(key.scopes),
            "created_at": clock.rfc3339(key.created_at),
            "revoked_at": clock.rfc3339(key.revoked_at),
        }
        for key in found
    ]
    if as_json:
        terminal.say_json({"data": rows})
        return
    rows = [{**row, "scopes": " ".join(row["scopes"])} for row in rows]
    terminal.say_table(_KEY_COLUMNS, rows, empty="no keys")


@keys.command()
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="ID", help="The part after llmg_.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """End a key; gateways notice within seconds."""
    from llmgine_workers.ledger import api_keys

    key_id = key.removeprefix("llmg_").partition("_")[0]
    if not _with_ledger(context, lambda ledger: api_keys.revoke(ledger, key_id)):
        raise LlmgineError(f"no key {key_id}", "not_found")
    if as_json:
        terminal.say_json({"id": key_id, "revoked": True})
    else:
        terminal.say(f"revoked {key_id}")


def prune(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Drop finished work older than ledger.keep; unfinished jobs always stay."""
    from llmgine_workers.ledger import partitions

    kept = invocation.of(context).settings().ledger
    dropped = _with_ledger(
        context,
        lambda ledger: partitions.prune(ledger, kept.keep, kept.keep_payloads),
    )
    if as_json:
        terminal.say_json({"dropped": dropped})
    else:
        terminal.say("\n".join(dropped) if dropped else "nothing is old enough")


def doctor(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Check the settings, the stores' versions, the schema and the topology."""
    from llmgine_workers.cli import examination

    given = invocation.of(context)
    settings = given.settings()
    findings = invocation.wait_for(lambda: examination.examine(settings, given.environ))
    if as_json:
        terminal.say_json({"data": [vars(one) for one in findings]})
    else:
        for one in findings:
            terminal.say(terminal.masked(str(one)))
    worst = [one for one in findings if one.problem]
    if worst:
        raise LlmgineError(
            f"{len(worst)} of {len(findings)} checks found something to mend",
            max(worst, key=lambda one: one.code == "dependency_down").code,
        )


@chains.command()
def lint(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Chain files.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Check chain files; every finding has its line and column."""
    from chains import Finding, InvalidChain
    from llmgine_workers.cli import chain_files

    findings: list[Finding] = []
    for file in files:
        try:
            chain_files.read(file)
        except InvalidChain as invalid:
            findings += invalid.findings
    if as_json:
        terminal.say_json({"errors": [finding.as_dict() for finding in findings]})
    if findings:
        raise InvalidChain(findings)
    if not as_json:
        terminal.note(f"{len(files)} in order")


def _with_stores(
    context: typer.Context, work: Callable[[Runtime], Coroutine[Any, Any, Any]]
) -> Any:
    """Open the runtime for one piece of work."""
    from llmgine_workers.cli import stores
    from llmgine_workers.ledger import schema

    given = invocation.of(context)
    settings = given.settings()

    async def open_and_work() -> Any:
        async with stores.opened(settings, given.environ) as rt:
            await schema.verify(rt.ledger)
            return await work(rt)

    return invocation.wait_for(open_and_work)


def _with_ledger(
    context: typer.Context, work: Callable[[Any], Coroutine[Any, Any, Any]]
) -> Any:
    """Open only the ledger, so that it also works while the rest is down."""
    from llmgine_workers.ledger import schema
    from llmgine_workers.ledger.connection import Ledger

    settings = invocation.of(context).settings()

    async def open_and_work() -> Any:
        ledger = Ledger(settings.ledger.url, settings.broker.prefix, connections=2)
        try:
            await schema.verify(ledger)
            return await work(ledger)
        finally:
            await ledger.close()

    return invocation.wait_for(open_and_work)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Usage(f"{text[:60]!r} is not the id of a letter or a job") from None


def _operator() -> str:
    """Who did it, for the letter's record."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return "cli"
