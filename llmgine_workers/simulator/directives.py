r"""Wishes written into a prompt: `[[sim:fault=500 times=2]]`, `[[sim:latency=2s]]` ...

    [[sim:fault=KIND times=N step=NAME delay=1s retry_after=3]]   the kind is enough
    [[sim:latency=2.0]] [[sim:first_token=0.1]] [[sim:chunks=5]] [[sim:tokens=500]]
    [[sim:tool=NAME]]   one turn of tool calls; NAME,NAME calls both; once per turn
    [[sim:args={"city": "Rome"}]]   the arguments of those calls
    [[sim:text=any words]]   the whole answer; \n and \uXXXX are read as escapes

A prompt carries its predecessors' words along, so each may name its `step`. Answers never
repeat a directive.
"""

import re
from dataclasses import dataclass

from llmgine_workers.simulator.config import seconds
from llmgine_workers.simulator.faults import FaultRule
from llmgine_workers.simulator.prompt import BadRequestError

_MARK = "[[sim:"
_FORM = re.compile(r"\[\[sim:(.*?)\]\](?!\])", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:n|u([0-9a-fA-F]{4}))")


@dataclass(slots=True)
class Directives:
    """What a prompt asks of the simulator; None where it says nothing."""

    faults: tuple[FaultRule, ...] = ()
    tools: tuple[tuple[str, ...], ...] = ()
    args: str | None = None
    text: str | None = None
    tokens: int | None = None
    chunks: int | None = None
    latency: float | None = None
    first_token: float | None = None


def read_directives(prompt: str, step: str | None) -> Directives:
    """Collect the directives for this step. BadRequestError if one cannot be read."""
    found = Directives()
    if _MARK not in prompt:
        return found
    for match in _FORM.finditer(prompt):
        try:
            _apply(found, match[1], step)
        except (ValueError, KeyError) as error:
            message = f"cannot read the directive {match[0]}: {error}"
            raise BadRequestError(message) from error
    return found


def _apply(found: Directives, body: str, step: str | None) -> None:
    key, equals, rest = body.partition("=")
    if not equals:
        raise ValueError("it has no '='")
    if key == "text":
        found.text = _ESCAPE.sub(_unescaped, rest)
    elif key == "args":
        found.args = rest
    else:
        fields = _fields(body)
        if fields.pop("step", step) == step:
            _apply_fields(found, key, fields)


def _fields(body: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in body.split()]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError("every word must be NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _apply_fields(found: Directives, key: str, fields: dict[str, str]) -> None:
    value = fields.pop(key)
    if key == "fault":
        found.faults += (_fault(value, fields),)
    elif key == "tool":
        found.tools += (tuple(value.split(",")),)
    elif key in ("tokens", "chunks"):
        setattr(found, key, _count(value))
    elif key in ("latency", "first_token"):
        setattr(found, key, seconds(value))
    else:
        raise ValueError(f"there is no {key!r}")
    if fields:
        raise ValueError(f"{', '.join(fields)} means nothing here")


def _fault(kind: str, fields: dict[str, str]) -> FaultRule:
    times = fields.pop("times", None)
    delay = fields.pop("delay", None)
    return FaultRule(
        kind=kind,
        count=None if times is None else _count(times),
        delay=None if delay is None else seconds(delay),
        retry_after=seconds(fields.pop("retry_after", "1")),
    )


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError("numbers start at 1")
    return number


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] is None else chr(int(match[1], 16))
