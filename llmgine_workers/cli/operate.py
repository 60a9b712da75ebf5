"""Commands that look after an installation: status, prune, doctor."""

from __future__ import annotations

import typer

from llmgine_workers.cli import invocation, reach, terminal
from llmgine_workers.cli.invocation import JsonOption
from llmgine_workers.errors import LlmgineError

_POOL_COLUMNS = ("pool", "queued", "running", "waiting", "workers", "slots", "published")


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


def prune(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Drop finished work older than ledger.keep; unfinished jobs always stay."""
    from llmgine_workers.ledger import partitions

    kept = invocation.of(context).settings().ledger
    dropped = reach.ledger(
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
