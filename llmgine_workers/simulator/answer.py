"""What the simulated model answers: a pure function of seed, model and messages."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import Any

from llmgine_workers.simulator.chance import draw, seed_of
from llmgine_workers.simulator.config import SimulatorConfig
from llmgine_workers.simulator.directives import Directives
from llmgine_workers.simulator.prompt import BadRequestError, Prompt
from llmgine_workers.simulator.schema import instance
from llmgine_workers.simulator.text import count_tokens, sentences, topics_of, truncate


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as billed: `input` includes `cached`, `output` includes `reasoning`."""

    input: int
    cached: int
    output: int
    reasoning: int


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call; `arguments` is a JSON object as text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `finish`: `stop`, `length` or `tool_calls`."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish: str
    usage: Usage


def compose(prompt: Prompt, wishes: Directives, config: SimulatorConfig) -> Answer:
    """Answer a prompt. BadRequestError if a wished tool was not given."""
    seed = seed_of(config.seed, prompt.model, prompt.sha256)
    if names := _tools_now(prompt, wishes, config):
        calls = tuple(_tool_call(name, prompt, wishes, seed) for name in names)
        size = sum(count_tokens(call.name + call.arguments) for call in calls)
        usage = _usage(prompt, size, config)
        return Answer("", calls, "tool_calls", usage)
    return _text_answer(prompt, wishes, config, seed)


def _text_answer(
    prompt: Prompt, wishes: Directives, config: SimulatorConfig, seed: int
) -> Answer:
    text = _text(prompt, wishes, config, seed)
    size = count_tokens(text)
    finish = "stop"
    if prompt.max_tokens is not None:
        room = max(0, prompt.max_tokens - config.reasoning_tokens)
        if size > room:
            text, finish = truncate(text, room), "length"
            size = count_tokens(text)
    return Answer(text, (), finish, _usage(prompt, size, config))


def _text(prompt: Prompt, wishes: Directives, config: SimulatorConfig, seed: int) -> str:
    if wishes.text is not None:
        return wishes.text
    if prompt.schema is not None:
        return json.dumps(instance(prompt.schema, seed), ensure_ascii=False)
    last = prompt.texts[-1] if prompt.texts else ""
    return sentences(seed, topics_of(last), wishes.tokens or config.answer_tokens)


def _usage(prompt: Prompt, visible: int, config: SimulatorConfig) -> Usage:
    reasoning = config.reasoning_tokens
    if prompt.max_tokens is not None:
        reasoning = min(reasoning, prompt.max_tokens)
    cached = floor(prompt.tokens * config.cached_share)
    return Usage(prompt.tokens, cached, visible + reasoning, reasoning)


def _tools_now(
    prompt: Prompt, wishes: Directives, config: SimulatorConfig
) -> tuple[str, ...]:
    """The tools to call in this turn: as wished, as forced, else by the seeded script."""
    tools = prompt.tools or {}
    if not tools or prompt.tool_choice == "none":
        return ()
    if wishes.tools:
        return _wished(wishes.tools, prompt.tool_turns, tools)
    if prompt.tool_choice in tools:
        return (prompt.tool_choice,)
    share = draw(config.seed, "tool", prompt.model, prompt.sha256)
    pick = tuple(tools)[int(share * len(tools))]
    if prompt.tool_choice == "required":
        return (pick,)
    scripted = draw(config.seed, "script", prompt.model, prompt.sha256)
    return (pick,) if scripted < config.tool_rate and not prompt.tool_turns else ()


def _wished(
    turns: tuple[tuple[str, ...], ...], done: int, tools: Mapping[str, Any]
) -> tuple[str, ...]:
    names = turns[done] if done < len(turns) else ()
    if unknown := [name for name in names if name not in tools]:
        raise BadRequestError(f"the directive names tools that were not given: {unknown}")
    return names


def _tool_call(name: str, prompt: Prompt, wishes: Directives, seed: int) -> ToolCall:
    if wishes.args is not None:
        return ToolCall(name, wishes.args)
    schema = {"type": "object", **(prompt.tools or {})[name]}
    value = instance(schema, seed_of(seed, name, prompt.tool_turns))
    return ToolCall(name, json.dumps(value, ensure_ascii=False))
