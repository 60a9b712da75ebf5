"""Reading a Messages request, refusing what Anthropic would refuse."""

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

_ROLES = frozenset(("user", "assistant", "system"))
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def read_messages(body: Mapping[str, Any]) -> Prompt:
    """Read a Messages request. BadRequestError if it would be refused."""
    messages = required_objects(body, "messages")
    max_tokens = optional_count(body, "max_tokens")
    if max_tokens is None:
        raise BadRequestError("max_tokens: Field required", "max_tokens")
    system = _content_text(body.get("system"), "system")
    texts = tuple(_message_text(m, f"messages.{i}") for i, m in enumerate(messages))
    texts = (system, *texts) if system else texts
    tools = _tools(body.get("tools"))
    return Prompt(
        model=required_text(body, "model"),
        texts=texts,
        stream=bool(body.get("stream")),
        max_tokens=max_tokens,
        tools=tools,
        tool_choice=_tool_choice(body.get("tool_choice")),
        tool_turns=sum(map(_calls_tools, messages)),
        tool_tokens=count_tokens(json.dumps(body["tools"])) if tools else 0,
        schema=_schema(body.get("output_config"), texts),
    )


def _message_text(message: Mapping[str, Any], where: str) -> str:
    if message.get("role") not in _ROLES:
        text = f"{where}.role: Input should be 'user', 'assistant' or 'system'"
        raise BadRequestError(text, f"{where}.role")
    if message.get("content") in (None, "", []):
        raise BadRequestError(f"{where}.content: Field required", f"{where}.content")
    return _content_text(message.get("content"), f"{where}.content")


def _content_text(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not is_object_list(content):
        raise BadRequestError(f"{where}: Input should be a valid list of blocks", where)
    return "".join(_block_text(block, where) for block in content)


def _block_text(block: Mapping[str, Any], where: str) -> str:
    kind = block.get("type")
    if kind == "tool_use":
        return json.dumps(block.get("input"))
    if kind == "tool_result":
        return _content_text(block.get("content"), where)
    return str(block.get("text", ""))


def _calls_tools(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    return any(block.get("type") == "tool_use" for block in blocks)


def _tools(tools: Any) -> dict[str, Mapping[str, Any]] | None:
    if not tools:
        return None
    try:
        return {str(t["name"]): optional_object(t, "input_schema") for t in tools}
    except (KeyError, TypeError, AttributeError) as error:
        message = "tools: Input should be a list of {name, input_schema}"
        raise BadRequestError(message, "tools") from error


def _tool_choice(choice: Any) -> str:
    if not isinstance(choice, dict):
        return "auto"
    return str(choice.get("name") or _CHOICES.get(str(choice.get("type")), "auto"))


def _schema(config: Any, texts: tuple[str, ...]) -> Mapping[str, Any] | None:
    form = config.get("format") if isinstance(config, dict) else None
    if isinstance(form, dict) and form.get("type") == "json_schema":
        schema = form.get("schema")
        if not isinstance(schema, dict):
            message = "output_config.format.schema: Input should be an object"
            raise BadRequestError(message, "output_config.format.schema")
        return schema
    return next((s for s in map(schema_in, texts) if s is not None), None)
