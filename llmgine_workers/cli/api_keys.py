"""API keys on the command line: create, list, revoke."""

from __future__ import annotations

from typing import Annotated

import typer

from llmgine_workers.cli import reach, terminal
from llmgine_workers.cli.invocation import JsonOption
from llmgine_workers.errors import LlmgineError

commands = typer.Typer(no_args_is_help=True, help="API keys.")

_COLUMNS = ("id", "tenant", "scopes", "created_at", "revoked_at")


@commands.command()
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

    key = reach.ledger(
        context, lambda ledger: installation.create_key(ledger, tenant, scope)
    )
    if as_json:
        terminal.say_json({"id": key.id, "key": key.text, "tenant": tenant})
    else:
        terminal.note(f"key {key.id} of {tenant}; it is not stored, so keep it now:")
        terminal.say(key.text)


@commands.command("list")
def list_keys(
    context: typer.Context,
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this one's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List keys: never their secrets."""
    from llmgine_workers import clock
    from llmgine_workers.ledger import api_keys

    found = reach.ledger(context, lambda ledger: api_keys.listed(ledger, tenant))
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
    terminal.say_table(_COLUMNS, rows, empty="no keys")


@commands.command()
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="ID", help="The part after llmg_.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """End a key; gateways notice within seconds."""
    from llmgine_workers.ledger import api_keys

    key_id = key.removeprefix("llmg_").partition("_")[0]
    if not reach.ledger(context, lambda ledger: api_keys.revoke(ledger, key_id)):
        raise LlmgineError(f"no key {key_id}", "not_found")
    if as_json:
        terminal.say_json({"id": key_id, "revoked": True})
    else:
        terminal.say(f"revoked {key_id}")
