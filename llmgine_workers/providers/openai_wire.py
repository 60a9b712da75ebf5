"""OpenAI's Chat Completions, which most other services speak as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from llmgine_workers.llm import Delta, LlmRequest, Usage
from llmgine_workers.providers import rows, wire
from llmgine_workers.providers.sse import Event

_FINISH: dict[str, str | None] = {
    "eos": "stop",
    "end_turn": "stop",
    "model_length": "length",
    # These end an answer that is not whole; as if no reason had come.
    "error": None,
    "abort": None,
    "insufficient_system_resource": None,
}
"""Words that are not OpenAI's: of Together, xAI, Mistral; OpenRouter, vLLM, DeepSeek."""

_CACHED = (
    ("prompt_tokens_details", "cached_tokens"),
    ("prompt_cache_hit_tokens",),
    ("cached_tokens",),
)
"""Where cached tokens are counted: by most, by DeepSeek, by Together."""

_IN_WORDS = "Answer with one JSON object that fits this JSON Schema, and nothing else:\n"


class OpenAIWire:
    """`chat.completion` and its chunks; see `wire.Wire`."""

    def body(
        self, request: LlmRequest, service: rows.Service, *, streamed: bool
    ) -> dict[str, Any]:
        """The body; a schema is asked for as the service's row says."""
        asked = _asked(request.schema, service)
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        system = "\n\n".join(text for text in (request.system, asked.words) if text)
        if system:
            messages.insert(0, {"role": "system", "content": system})
        body: dict[str, Any] = {
            "model": request.model,
            "messages": messages,
            **asked.fields,
        }
        max_tokens = request.max_tokens or service.default_max_tokens
        if max_tokens is not None:
            body[service.max_tokens] = max_tokens
        for place, value in wire.chosen(request, service).items():
            rows.place(body, place, value)
        if streamed:
            body.update(service.streamed)
        return body

    def read(self, document: Any) -> wire.Reading:
        """A `chat.completion`."""
        complain(document)
        choice = document["choices"][0]
        complain(choice)
        message = choice["message"]
        text, _ = _content(message.get("content"))
        return _reading(
            text,
            choice.get("finish_reason"),
            message.get("refusal"),
            model=document.get("model"),
            usage=usage_of(document),
        )

    def follow(self) -> OpenAIFollower:
        """A reader of `chat.completion.chunk` events."""
        return OpenAIFollower()


class OpenAIFollower:
    """Gathers the chunks; the one with the usage has no choices."""

    def __init__(self) -> None:
        self.done = False
        self._text: list[str] = []
        self._refusal = ""
        self._finish_reason: str | None = None
        self._model: str | None = None
        self._usage: Usage | None = None

    def feed(self, event: Event) -> Sequence[Delta]:
        """See `wire.Follower`."""
        if event.data == b"[DONE]":
            self.done = True
            return ()
        chunk = orjson.loads(event.data)
        complain(chunk)
        self._model = chunk.get("model") or self._model
        self._usage = usage_of(chunk) or self._usage
        return [
            delta
            for choice in chunk.get("choices") or ()
            if not choice.get("index")
            for delta in self._choice(choice)
        ]

    def _choice(self, choice: Mapping[str, Any]) -> list[Delta]:
        complain(choice)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        delta = choice.get("delta") or {}
        text, thinking = _content(delta.get("content"))
        # DeepSeek, xAI and vLLM say reasoning_content; Groq, Ollama, OpenRouter and
        # Together say reasoning; Mistral has it inside the content.
        thinking = delta.get("reasoning_content") or delta.get("reasoning") or thinking
        found: list[Delta] = []
        if thinking:
            found.append(Delta(reasoning=thinking))
        if text:
            self._text.append(text)
            found.append(Delta(text=text))
        self._refusal += delta.get("refusal") or ""
        return found

    def reading(self) -> wire.Reading:
        """See `wire.Follower`."""
        return _reading(
            "".join(self._text),
            self._finish_reason,
            self._refusal,
            model=self._model,
            usage=self._usage,
        )


@dataclass(frozen=True)
class _Asked:
    """What a wish for JSON adds to a request: words for the model, fields of the body."""

    words: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


def _by_schema(schema: Mapping[str, Any]) -> _Asked:
    """Without `strict`, which takes only some schemas."""
    form = {"name": "answer", "schema": schema, "strict": False}
    return _Asked(
        fields={"response_format": {"type": "json_schema", "json_schema": form}}
    )


def _in_words(schema: Mapping[str, Any]) -> _Asked:
    return _Asked(
        words=_IN_WORDS + orjson.dumps(schema).decode(),
        fields={"response_format": {"type": "json_object"}},
    )


_ASKING = {"json_schema": _by_schema, "json_object": _in_words}


def _asked(schema: Mapping[str, Any] | None, service: rows.Service) -> _Asked:
    return _Asked() if schema is None else _ASKING[service.schema](schema)


def complain(document: Mapping[str, Any]) -> None:
    """Raise the error that a document or a choice is; vLLM and Mistral put it bare."""
    if document.get("error") or document.get("object") == "error":
        raise wire.ErrorEvent(document)


def _content(content: Any) -> tuple[str, str]:
    """Text and thinking: one text, or Mistral's list of parts of either kind."""
    if content is None or isinstance(content, str):
        return content or "", ""
    return _texts(content), "".join(
        _texts(part["thinking"]) for part in content if part["type"] == "thinking"
    )


def _texts(parts: Iterable[Mapping[str, Any]]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _reading(
    text: str,
    reason: str | None,
    refusal: str | None,
    *,
    model: str | None,
    usage: Usage | None,
) -> wire.Reading:
    """Gemini adds to `content_filter` what was found."""
    filtered = bool(reason) and str(reason).startswith("content_filter")
    return wire.Reading(
        text=text,
        finish_reason=_FINISH.get(reason, reason) if reason else None,
        model=model,
        usage=usage,
        refused=filtered or bool(refusal and not text),
    )


def usage_of(document: Mapping[str, Any]) -> Usage | None:
    """The usage of an answer or chunk; Groq has also had it under a name of its own."""
    report = document.get("usage") or (document.get("x_groq") or {}).get("usage")
    if not report:
        return None
    prompt = wire.count(report, "prompt_tokens")
    said = wire.count(report, "completion_tokens")
    # Gemini and xAI count the thinking in the total only; it is billed as output.
    output = max(said, wire.count(report, "total_tokens") - prompt)
    thought = wire.count(report, "completion_tokens_details", "reasoning_tokens")
    return Usage(
        calls=1,
        input_tokens=prompt,
        cached_input_tokens=next(
            filter(None, (wire.count(report, *at) for at in _CACHED)), 0
        ),
        output_tokens=output,
        reasoning_tokens=thought or output - said,
    )
