"""OpenAI's Chat Completions, which most other services speak as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from llmgine_workers.llm import Delta, LlmRequest, Usage
from llmgine_workers.providers import rows, wire
from llmgine_workers.providers.sse import Event


class OpenAIWire:
    """`POST /chat/completions`; see `wire.Wire`."""

    path = "/chat/completions"

    def open_client(self, base_url: str, key: str) -> Any:
        """`AsyncOpenAI` on aiohttp, without its own retries."""
        import openai

        return openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=base_url,
            max_retries=0,
            http_client=wire.http_client(openai.DefaultAioHttpClient),
        )

    def body(
        self, request: LlmRequest, service: rows.Service, *, streamed: bool
    ) -> dict[str, Any]:
        """The body; a schema is asked for without `strict`, which takes only some."""
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": request.system})
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        max_tokens = request.max_tokens or service.default_max_tokens
        if max_tokens is not None:
            body[service.max_tokens] = max_tokens
        for place, value in wire.chosen(request, service).items():
            rows.place(body, place, value)
        if request.schema is not None:
            schema = {"name": "answer", "schema": request.schema, "strict": False}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if streamed:
            body.update(stream=True, stream_options={"include_usage": True})
        return body

    def read(self, document: Any) -> wire.Reading:
        """A `chat.completion`."""
        if document.get("error"):
            raise wire.ErrorEvent(document)
        choice = document["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        if not isinstance(text, str):
            raise TypeError("content is not a text")
        reason = choice.get("finish_reason")
        return wire.Reading(
            text=text,
            finish_reason=reason,
            model=document.get("model"),
            usage=_usage(document.get("usage")),
            refused=_refused(reason, text, message.get("refusal")),
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
        if chunk.get("error"):
            raise wire.ErrorEvent(chunk)
        self._model = chunk.get("model") or self._model
        self._usage = _usage(chunk.get("usage")) or self._usage
        return [
            delta
            for choice in chunk.get("choices") or ()
            if not choice.get("index")
            for delta in self._choice(choice)
        ]

    def _choice(self, choice: Mapping[str, Any]) -> list[Delta]:
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        delta = choice.get("delta") or {}
        found: list[Delta] = []
        # DeepSeek and vLLM say reasoning_content, Ollama and OpenRouter reasoning.
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning:
            found.append(Delta(reasoning=reasoning))
        if delta.get("content"):
            self._text.append(delta["content"])
            found.append(Delta(text=delta["content"]))
        self._refusal += delta.get("refusal") or ""
        return found

    def reading(self) -> wire.Reading:
        """See `wire.Follower`."""
        text = "".join(self._text)
        return wire.Reading(
            text=text,
            finish_reason=self._finish_reason,
            model=self._model,
            usage=self._usage,
            refused=_refused(self._finish_reason, text, self._refusal),
        )


def _refused(reason: str | None, text: str, refusal: str | None) -> bool:
    return reason == "content_filter" or bool(refusal and not text)


def _usage(report: Mapping[str, Any] | None) -> Usage | None:
    if not report:
        return None
    return Usage(
        calls=1,
        input_tokens=wire.count(report, "prompt_tokens"),
        cached_input_tokens=wire.count(report, "prompt_tokens_details", "cached_tokens"),
        output_tokens=wire.count(report, "completion_tokens"),
        reasoning_tokens=wire.count(
            report, "completion_tokens_details", "reasoning_tokens"
        ),
    )
