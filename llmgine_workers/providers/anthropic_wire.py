"""Anthropic's Messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from llmgine_workers.llm import Delta, LlmRequest, Usage
from llmgine_workers.providers import rows, wire
from llmgine_workers.providers.sse import Event

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}


class AnthropicWire:
    """`message` and its events; see `wire.Wire`."""

    def body(
        self, request: LlmRequest, service: rows.Service, *, streamed: bool
    ) -> dict[str, Any]:
        """The body; a schema becomes the service's own structured output."""
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [
                {"role": m.role, "content": m.content} for m in request.messages
            ],
            service.max_tokens: request.max_tokens or service.default_max_tokens,
        }
        if request.system is not None:
            body["system"] = request.system
        for place, value in wire.chosen(request, service).items():
            rows.place(body, place, value)
        if isinstance(body.get("stop_sequences"), str):
            body["stop_sequences"] = [body["stop_sequences"]]
        if request.schema is not None:
            form = {"type": "json_schema", "schema": _schema(request.schema)}
            rows.place(body, "output_config.format", form)
        if streamed:
            body.update(service.streamed)
        return body

    def read(self, document: Any) -> wire.Reading:
        """A `message`."""
        if document.get("type") == "error":
            raise wire.ErrorEvent(document)
        blocks = document["content"]
        return _reading(
            text="".join(block["text"] for block in blocks if block["type"] == "text"),
            reason=document.get("stop_reason"),
            model=document.get("model"),
            usage=document.get("usage"),
        )

    def follow(self) -> AnthropicFollower:
        """A reader of `message_start` ... `message_stop`."""
        return AnthropicFollower()


class AnthropicFollower:
    """Gathers the events; the counts of tokens are cumulative."""

    def __init__(self) -> None:
        self.done = False
        self._text: list[str] = []
        self._reason: str | None = None
        self._model: str | None = None
        self._usage: dict[str, Any] = {}

    def feed(self, event: Event) -> Sequence[Delta]:
        """See `wire.Follower`; kinds of events not known are passed over."""
        document = orjson.loads(event.data)
        match document["type"]:
            case "content_block_delta":
                return self._delta(document["delta"])
            case "content_block_start":
                return self._delta(document["content_block"])
            case "message_start":
                self._model = document["message"].get("model")
                self._count(document["message"].get("usage"))
            case "message_delta":
                self._reason = document["delta"].get("stop_reason") or self._reason
                self._count(document.get("usage"))
            case "message_stop":
                self.done = True
            case "error":
                raise wire.ErrorEvent(document)
        return ()

    def _delta(self, piece: Mapping[str, Any]) -> Sequence[Delta]:
        if piece.get("text"):
            self._text.append(piece["text"])
            return (Delta(text=piece["text"]),)
        if piece.get("thinking"):
            return (Delta(reasoning=piece["thinking"]),)
        return ()

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        known = {name: n for name, n in (usage or {}).items() if n is not None}
        self._usage.update(known)

    def reading(self) -> wire.Reading:
        """See `wire.Follower`."""
        return _reading(
            text="".join(self._text),
            reason=self._reason,
            model=self._model,
            usage=self._usage,
        )


def _reading(
    text: str, reason: str | None, model: str | None, usage: Mapping[str, Any] | None
) -> wire.Reading:
    return wire.Reading(
        text=text,
        finish_reason=_FINISH.get(reason, reason) if reason else None,
        model=model,
        usage=_usage(usage),
        refused=reason == "refusal",
    )


def _usage(report: Mapping[str, Any] | None) -> Usage | None:
    """Cache reads and writes are reported beside the input tokens: they belong in."""
    if not report:
        return None
    cached = wire.count(report, "cache_read_input_tokens")
    written = wire.count(report, "cache_creation_input_tokens")
    return Usage(
        calls=1,
        input_tokens=wire.count(report, "input_tokens") + cached + written,
        cached_input_tokens=cached,
        output_tokens=wire.count(report, "output_tokens"),
        reasoning_tokens=wire.count(report, "output_tokens_details", "thinking_tokens"),
    )


def _schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema in the subset the service takes; the rest goes into descriptions."""
    from anthropic import transform_schema

    try:
        return transform_schema(dict(schema))
    except (ValueError, TypeError, AttributeError, AssertionError):
        return schema  # what the SDK cannot rewrite, the service judges
