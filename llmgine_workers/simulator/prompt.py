"""One request in neutral words, after either wire format has been read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from llmgine_workers.simulator.text import count_tokens

# Every real tokenizer wraps messages in markers; these sizes are ours, only fixed.
TOKENS_PER_MESSAGE = 4
TOKENS_PER_REQUEST = 3


class BadRequestError(Exception):
    """The request cannot be read; `param` names the field at fault, if one is."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


@dataclass(frozen=True)
class Prompt:
    """What was asked. `texts`: the text of the system prompt and of each message.

    `tool_turns`: how many assistant messages with tool calls the conversation holds.
    `tool_choice`: `auto`, `none`, `required` or the name of one tool.
    `tool_tokens`: the size of the tool definitions.
    """

    model: str
    texts: tuple[str, ...]
    stream: bool = False
    include_usage: bool = False
    include_obfuscation: bool = True
    max_tokens: int | None = None
    tools: Mapping[str, Mapping[str, Any]] | None = None
    tool_choice: str = "auto"
    tool_turns: int = 0
    tool_tokens: int = 0
    schema: Mapping[str, Any] | None = None

    @cached_property
    def text(self) -> str:
        """All texts in order, one to a line: what `prompt_sha256` is the hash of."""
        return "\n".join(self.texts)

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of `text` in UTF-8."""
        return text_sha256(self.text)

    @cached_property
    def tokens(self) -> int:
        """Input tokens: each text's, 4 per message, the tools', and 3 per request."""
        texts = sum(count_tokens(text) + TOKENS_PER_MESSAGE for text in self.texts)
        return texts + self.tool_tokens + TOKENS_PER_REQUEST


def text_sha256(text: str) -> str:
    """Hex SHA-256 of a text in UTF-8 (lone surrogates kept, as JSON can carry them)."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def required_text(body: Mapping[str, Any], name: str) -> str:
    """A field that must be a non-empty string. BadRequestError otherwise."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequestError(f"'{name}' must be a non-empty string", name)
    return value


def optional_count(body: Mapping[str, Any], name: str) -> int | None:
    """A field that may be an integer of at least 1. BadRequestError otherwise."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadRequestError(f"'{name}' must be an integer of at least 1", name)
    return value


def required_objects(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """A field that must be a non-empty list of objects. BadRequestError otherwise."""
    value = body.get(name)
    if not isinstance(value, list) or not value:
        raise BadRequestError(f"'{name}' must be a list of at least one object", name)
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            where = f"{name}[{index}]"
            raise BadRequestError(f"'{where}' must be an object", where)
    return value


def optional_object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A field that may be an object, empty without it. BadRequestError otherwise."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequestError(f"'{name}' must be an object", name)
    return value


def is_object_list(value: Any) -> bool:
    """Whether it is a list of objects: content in parts or blocks."""
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)
