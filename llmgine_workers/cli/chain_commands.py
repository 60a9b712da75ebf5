"""Chains on the command line: lint, show, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmgine_workers.cli import terminal
from llmgine_workers.cli.invocation import JsonOption

commands = typer.Typer(no_args_is_help=True, help="Chains.")


@commands.command()
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


@commands.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A chain file.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Draw a chain as a Mermaid flowchart."""
    from chains.drawing import mermaid
    from llmgine_workers.cli import chain_files

    drawn = mermaid(chain_files.read(file))
    if as_json:
        terminal.say_json({"mermaid": drawn})
    else:
        terminal.say(drawn.rstrip())


@commands.command()
def schema() -> None:
    """Print the JSON Schema of a chain, for editors that complete it."""
    from chains.json_schema import chain_schema

    terminal.say_json(chain_schema())
