"""Jobs, steps and letters, as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmgine_workers.cli import terminal
from llmgine_workers.cli.terminal import say, usd

_STEP_COLUMNS = ("path", "kind", "pool", "state", "model", "tries", "cost_usd", "note")
_ATTEMPT_COLUMNS = ("n", "state", "model", "status", "cost_usd", "request_id", "note")


def job(found: Mapping[str, Any]) -> None:
    """A job: state, progress, usage, cost, then its output or error."""
    chain = found["chain"]
    say(f"job      {found['id']}")
    say(f"chain    {chain['name']}@{chain['version']}")
    say(f"state    {found['state']}{_why(found)}")
    progress = found.get("progress") or {}
    counts = ", ".join(f"{n} {k}" for k, n in progress.items() if n and k != "total")
    say(f"steps    {progress.get('total')} ({counts or 'none yet'})")
    usage = found.get("usage") or {}
    say(
        f"usage    {usage.get('calls')} calls, {usage.get('input_tokens')} + "
        f"{usage.get('output_tokens')} tokens"
    )
    simulated = " (simulated)" if found.get("simulated") else ""
    say(f"cost     {usd(found.get('cost_usd'))}{simulated}")
    say(
        f"created  {found.get('created_at')}   finished {found.get('finished_at') or '-'}"
    )
    if found.get("dead_letter"):
        say(f"letter   {found['dead_letter']}")
    _ending(found)


def steps(found: Sequence[Mapping[str, Any]]) -> None:
    """A table of a job's steps."""
    rows = [
        {**one, "tries": len(one.get("attempts") or ()), **_noted(one)} for one in found
    ]
    terminal.say_table(_STEP_COLUMNS, rows, empty="the job has no steps yet")


def step(found: Mapping[str, Any]) -> None:
    """One step, its attempts and its request."""
    say(f"step     {found['path']} ({found['kind']}, pool {found['pool']})")
    say(f"state    {found['state']}{_why(found)}")
    say(f"cost     {usd(found.get('cost_usd'))}")
    if found.get("model"):
        say(f"model    {found['model']} ({found.get('why')})")
    attempts = [{**one, **_noted(one)} for one in found.get("attempts") or ()]
    terminal.say_table(_ATTEMPT_COLUMNS, attempts, empty="no attempts yet")
    if found.get("request") is not None:
        say("request")
        say(terminal.as_json(found["request"], indent=2))
    _ending(found)


def letter(found: Mapping[str, Any]) -> None:
    """A dead letter: what failed, why, and what to do."""
    for name in ("id", "state", "job", "tenant", "chain", "step", "pool", "replays",
                 "cost_usd", "fingerprint", "task_id", "created_at", "resolved_at",
                 "resolved_by", "resolution"):  # fmt: skip
        if found.get(name) is not None:
            say(f"{name.replace('_', ' '):12}{found[name]}")
    _error(found)
    attempts = [{**one, **_noted(one)} for one in found.get("attempts") or ()]
    if attempts:
        terminal.say_table(("step", *_ATTEMPT_COLUMNS), attempts, empty="")
    for name in ("request", "raw"):
        if found.get(name):
            say(name)
            terminal.say_value(found[name])
    if found.get("state") == "open" and found.get("job"):
        say(f"{'replay':12}llmgine dlq replay {found['id']}")


def _error(found: Mapping[str, Any]) -> None:
    for name, value in (found.get("error") or {}).items():
        if value not in (None, False):
            say(f"{'error' if name == 'code' else '':12}{name}: {value}")


def _ending(found: Mapping[str, Any]) -> None:
    if error := found.get("error"):
        where = f" at {error['step']}" if error.get("step") else ""
        say(f"error    {error['code']}{where}: {error['message']}")
    elif found.get("output") is not None:
        say("output")
        terminal.say_value(found["output"])


def _why(found: Mapping[str, Any]) -> str:
    waiting = found.get("waiting") or {}
    detail = waiting.get("detail") or waiting.get("reason")
    return f": {detail}" if detail else ""


def _noted(found: Mapping[str, Any]) -> dict[str, str | None]:
    error = found.get("error") or {}
    waiting = found.get("waiting") or {}
    note = error.get("code") or waiting.get("detail") or waiting.get("reason")
    return {"note": note}
