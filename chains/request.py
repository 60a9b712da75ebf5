"""The rendered request of a step: what exactly the model or the tool will get."""

from __future__ import annotations

from typing import Any, TypeAlias

from chains import duration
from chains.chain import Defaults, LlmCall, LlmOptions, Message, Step, Wait
from chains.json_value import Json
from chains.template import Lookup, Renderer

Request: TypeAlias = dict[str, Json]

_AS_WRITTEN = (
    "max_tokens", "temperature", "top_p", "seed", "frequency_penalty", "presence_penalty",
    "reasoning_effort",
)  # fmt: skip
"""Options without texts to fill in."""


def options_of(defaults: Defaults, llm: LlmCall) -> dict[str, Any]:
    """The options of an llm step: its own before the chain's defaults."""
    options: dict[str, Any] = {}
    for source in (defaults, llm):
        for name in LlmOptions.model_fields:
            value = getattr(source, name)
            if value is not None:
                options[name] = value
    return options


def request_of(defaults: Defaults, step: Step, path: str, lookup: Lookup) -> Request:
    """The request with every text filled in; PlanFailed if one cannot be."""
    renderer = Renderer(lookup, path)
    if step.llm is not None:
        return _llm_request(options_of(defaults, step.llm), step.llm, renderer)
    if step.tool is not None:
        arguments = renderer.fill(step.tool.arguments)
        return {"tool": step.tool.use, "arguments": arguments}
    if step.wait is not None:
        return _wait_request(step.wait, renderer)
    raise ValueError(f"{path} does no work")


def _wait_request(wait: Wait, renderer: Renderer) -> Request:
    if wait.pause is not None:
        return {"for_s": duration.seconds(wait.pause)}
    if wait.approval is not None:
        return {"approval": renderer.text(wait.approval), "form": wait.form or {}}
    return {"event": wait.event, "key": renderer.text(wait.key or "")}


def _llm_request(options: dict[str, Any], llm: LlmCall, renderer: Renderer) -> Request:
    """Turns of the system become part of `system`: not every wire format has them
    between the others."""
    turns = llm.messages or (Message(role="user", content=llm.prompt or ""),)
    system = [options["system"]] if "system" in options else []
    system += [turn.content for turn in turns if turn.role == "system"]
    request: Request = {
        "system": "\n\n".join(map(renderer.text, system)) or None,
        "messages": [
            {"role": turn.role, "content": renderer.text(turn.content)}
            for turn in turns
            if turn.role != "system"
        ],
        "stop": list(options.get("stop", ())) or None,
        **{name: options.get(name) for name in _AS_WRITTEN},
    }
    return {name: value for name, value in request.items() if value is not None}
