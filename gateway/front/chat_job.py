"""A chat request as a job of one step.

The chain has the roles and which options there are; what was said and every number is its
input, so that the same few chains serve every conversation (a new `seed` for each call
too), and braces in a text stay braces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chains.chain import NUMBERS
from chains.findings import pointer
from gateway.errors import Problem
from gateway.front.parameters import ChatCompletionRequest, ChatMessage
from gateway.submission import job_request
from llmgine_workers.engine.submit import JobRequest
from llmgine_workers.errors import Refusal
from llmgine_workers.providers.rows import row_of
from llmgine_workers.runtime import Runtime

STEP = "chat"
_OPTIONS = (
    "temperature", "top_p", "stop", "seed", "frequency_penalty", "presence_penalty",
    "reasoning_effort",
)  # fmt: skip
"""Those that only some services take."""


def chat_job(
    rt: Runtime, asked: ChatCompletionRequest, options: Mapping[str, Any]
) -> JobRequest:
    """The job; Problem names what it cannot be made of."""
    chosen = {
        name: value
        for name in _OPTIONS
        if (value := getattr(asked, name)) is not None and value != []
    }
    models = models_for(rt, asked.model, chosen)
    max_tokens = asked.max_completion_tokens or asked.max_tokens
    if max_tokens is not None:
        chosen["max_tokens"] = max_tokens
    numbers = {name: value for name, value in chosen.items() if name in NUMBERS}
    messages = [turn.content for turn in asked.messages]
    body = {
        "chain": _chain(asked, models, chosen),
        "inputs": {"messages": messages, **numbers},
        "metadata": asked.metadata or {},
        "options": {**options, "stream": bool(asked.stream)},
    }
    return job_request(body)


def models_for(rt: Runtime, name: str, chosen: Mapping[str, Any]) -> list[str]:
    """The models behind a name that take every option; Problem if none does.

    A chain leaves out what a service does not know. Whoever speaks to this front does
    not know which service that is, and would get another answer than they asked for.
    """
    try:
        models = rt.models.candidates((name,))
    except Refusal as nobody:
        finding = {"pointer": "/model", "code": nobody.code, "detail": str(nobody)}
        raise Problem.of([finding]) from None
    fitting = [model for model in models if chosen.keys() <= _taken_by(rt, model)]
    if fitting:
        return fitting
    unknown = sorted(chosen.keys() - _taken_by(rt, models[0]))
    detail = f"{models[0]} does not take it"
    raise Problem.of(
        [
            {"pointer": pointer([one]), "code": "unsupported_parameter", "detail": detail}
            for one in unknown
        ]
    )


def _taken_by(rt: Runtime, model: str) -> set[str]:
    provider = model.partition("/")[0]
    return set(row_of(provider, rt.settings.providers[provider]).parameters)


def _chain(
    asked: ChatCompletionRequest, models: list[str], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    llm: dict[str, Any] = {"model": models, "messages": _turns(asked.messages), **chosen}
    inputs: dict[str, Any] = {"messages": {"type": "array", "items": {"type": "string"}}}
    for name in chosen.keys() & NUMBERS.keys():
        llm[name] = f"{{{{ inputs.{name} }}}}"
        inputs[name] = number_input(name)
    if asked.response_format and (schema := asked.response_format.wanted):
        llm["schema"] = schema
    return {
        "name": "chat",
        "description": "One answer in a conversation, asked for in OpenAI's format.",
        "inputs": inputs,
        "steps": [{"name": STEP, "llm": llm}],
    }


def number_input(name: str) -> dict[str, Any]:
    """The schema of an input that fills in an option."""
    return NUMBERS[name].json_schema()


def _turns(messages: list[ChatMessage]) -> list[dict[str, str]]:
    return [
        {
            "role": "system" if turn.role == "developer" else turn.role,
            "content": f"{{{{ inputs.messages.{n} }}}}",
        }
        for n, turn in enumerate(messages)
    ]
