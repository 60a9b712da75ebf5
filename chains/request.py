"""The rendered request of a step: what exactly the model or the tool will get."""

from __future__ import annotations

from typing import Any, TypeAlias

from chains.chain import Chain, LlmCall, LlmOptions, Message, Step
from chains.json_value import Json
from chains.template import Lookup, Renderer

Request: TypeAlias = dict[str, Json]


def options_of(chain: Chain, step: Step) -> dict[str, Any]:
    """The options of an llm step: its own before the chain's defaults."""
    options: dict[str, Any] = {}
    for source in (chain.defaults, step.llm):
        for name in LlmOptions.model_fields:
            value = getattr(source, name, None)
            if value is not None:
                options[name] = value
    return options


def request_of(chain: Chain, step: Step, path: str, lookup: Lookup) -> Request:
    """The request with every text filled in; PlanFailed if one cannot be."""
    renderer = Renderer(lookup, path)
    if step.llm is not None:
        return _llm_request(options_of(chain, step), step.llm, renderer)
    tool = step.tool
    if tool is None:
        raise ValueError(f"{path} does no work")
    return {"tool": tool.use, "arguments": renderer.fill(tool.arguments)}


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
        "max_tokens": options.get("max_tokens"),
        "temperature": options.get("temperature"),
        "top_p": options.get("top_p"),
        "stop": list(options.get("stop", ())) or None,
        "seed": options.get("seed"),
    }
    return {name: value for name, value in request.items() if value is not None}
