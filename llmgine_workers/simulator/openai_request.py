"""Reading a Chat Completions request, refusing what OpenAI would refuse."""

import json
from collections.abc import Mapping
from typing import Any

from llmgine_workers.simulator.prompt import (
    BadRequestError,
    Prompt,
    is_object_list,
    optional_count,
    optional_object,
    required_objects,
    required_text,
)
from llmgine_workers.simulator.schema import schema_in
from llmgine_workers.simulator.text import count_tokens

_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_ANY_OBJECT = {"type": "object", "properties": {"answer": {"type": "string"}}}


def read_chat(body: Mapping[str, Any]) -> Prompt:
    """Read a chat completion request. BadRequestError if it would be refused."""
    messages = required_objects(body, "messages")
    texts = tuple(_message_text(m, f"messages[{i}]") for i, m in enumerate(messages))
    tools = _tools(body.get("tools"))
    options = optional_object(body, "stream_options")
    if options and not body.get("stream"):
        message = "'stream_options' is only allowed when 'stream' is set"
        raise BadRequestError(message, "stream_options")
    limit = optional_count(body, "max_completion_tokens")
    return Prompt(
        model=required_text(body, "model"),
        texts=texts,
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        include_obfuscation=bool(options.get("include_obfuscation", True)),
        max_tokens=limit or optional_count(body, "max_tokens"),
        tools=tools,
        tool_choice=_tool_choice(body),
        tool_turns=sum(1 for message in messages if message.get("tool_calls")),
        tool_tokens=count_tokens(json.dumps(body["tools"])) if tools else 0,
        schema=_schema(optional_object(body, "response_format"), texts),
    )


def _message_text(message: Mapping[str, Any], where: str) -> str:
    role = message.get("role")
    if role not in _ROLES:
        raise BadRequestError(f"'{where}.role' is not a known role", f"{where}.role")
    text = _content_text(message.get("content"), where)
    calls = message.get("tool_calls")
    if not text and not calls and message.get("content") is None:
        raise BadRequestError(f"'{where}.content' is missing", f"{where}.content")
    return text + (json.dumps(calls) if calls else "")


def _content_text(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not is_object_list(content):
        message = f"'{where}.content' must be a string or a list of parts"
        raise BadRequestError(message, f"{where}.content")
    return "".join(str(part.get("text", "")) for part in content)


def _tools(tools: Any) -> dict[str, Mapping[str, Any]] | None:
    if not tools:
        return None
    try:
        functions = [tool["function"] for tool in tools]
        return {str(f["name"]): optional_object(f, "parameters") for f in functions}
    except (KeyError, TypeError, AttributeError) as error:
        message = "'tools' must be a list of {type: function, function: {name, ...}}"
        raise BadRequestError(message, "tools") from error


def _tool_choice(body: Mapping[str, Any]) -> str:
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        return str(optional_object(choice, "function").get("name", "auto"))
    return str(choice or "auto")


def _schema(form: Mapping[str, Any], texts: tuple[str, ...]) -> Mapping[str, Any] | None:
    kind = form.get("type")
    if kind == "json_schema":
        schema = optional_object(form, "json_schema").get("schema")
        if not isinstance(schema, dict):
            message = "'response_format.json_schema.schema' must be an object"
            raise BadRequestError(message, "response_format.json_schema.schema")
        return schema
    written = next((s for s in map(schema_in, texts) if s is not None), None)
    return written or (_ANY_OBJECT if kind == "json_object" else None)
