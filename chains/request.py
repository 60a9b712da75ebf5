"""The rendered request of a step: what exactly the model or the tool will get."""

from __future__ import annotations

from typing import Any, TypeAlias

from pydantic import ValidationError

from chains import duration
from chains.chain import (
    MAX_TEXTS,
    NUMBERS,
    Defaults,
    EmbedCall,
    LlmCall,
    LlmOptions,
    Message,
    Step,
    Wait,
)
from chains.failures import TemplateFailed
from chains.findings import shown
from chains.json_value import Json
from chains.template import Lookup, Renderer

Request: TypeAlias = dict[str, Json]


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
        options = _filled(options_of(defaults, step.llm), path, renderer)
        return _llm_request(options, step.llm, renderer)
    if step.embed is not None:
        return _embed_request(step.embed, path, renderer)
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
        **{name: options.get(name) for name in (*NUMBERS, "reasoning_effort")},
    }
    return {name: value for name, value in request.items() if value is not None}


def _embed_request(embed: EmbedCall, path: str, renderer: Renderer) -> Request:
    written = embed.input if isinstance(embed.input, str) else list(embed.input)
    filled = renderer.fill(written)
    texts = [filled] if isinstance(filled, str) else filled
    if not (isinstance(texts, list) and all(isinstance(t, str) and t for t in texts)):
        detail = "must be a text or a list of texts, none of them empty"
        raise TemplateFailed(path, "input", detail)
    if not 0 < len(texts) <= MAX_TEXTS:
        detail = f"must have 1 to {MAX_TEXTS} texts, got {len(texts)}"
        raise TemplateFailed(path, "input", detail)
    numbers = _filled({"dimensions": embed.dimensions}, path, renderer)
    request: Request = {"input": texts, "encoding": embed.encoding}
    return request if embed.dimensions is None else {**request, **numbers}


def _filled(options: dict[str, Any], path: str, renderer: Renderer) -> dict[str, Any]:
    """The options with their numbers filled in; TemplateFailed if one is out of range."""
    filled = dict(options)
    for name in NUMBERS.keys() & options.keys():
        if isinstance(options[name], str):
            filled[name] = _number(name, renderer.fill(options[name]), path)
    return filled


def _number(name: str, value: Json, path: str) -> Json:
    try:
        number: Json = NUMBERS[name].validate_python(value)
    except ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"].removeprefix("Input should be ")
        raise TemplateFailed(path, name, f"must be {why}, got {shown(value)}") from None
    return number
