"""The Chat Completions format: bodies, stream frames, errors and headers as OpenAI's."""

from collections.abc import Mapping
from typing import Any

from llmgine_workers.simulator.answer import Answer, ToolCall, Usage
from llmgine_workers.simulator.limits import Budget
from llmgine_workers.simulator.openai_request import read_chat
from llmgine_workers.simulator.prompt import Prompt
from llmgine_workers.simulator.wire import Frames, Refusal, Reply, around, dump, pieces

_GAP = "\x00gap"
_FINGERPRINT = "fp_51a0de7c42"
_CREATED = 1767225600  # 2026-01-01, the birthday of every simulated model
# The service pads its frames to one size with a field of this name.
_PADDING = "Zq7RfK2mXw9LdT4h"

# kind -> (type, code, message)
ERRORS: dict[str, tuple[str, str | None, str]] = {
    "400": ("invalid_request_error", None, "The request was refused by the simulator."),
    "401": ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "403": ("invalid_request_error", "unsupported_country_region_territory",
            "This key may not do that."),
    "404": ("invalid_request_error", "model_not_found", "The model does not exist."),
    "413": ("invalid_request_error", "request_too_large", "The request is too large."),
    "429": ("requests", "rate_limit_exceeded", "Rate limit reached."),
    "500": ("server_error", None, "The server failed while it processed the request."),
    "502": ("server_error", None, "Bad gateway."),
    "503": ("server_error", None, "The engine is overloaded, try again later."),
    "504": ("server_error", None, "The request took too long."),
    "529": ("server_error", "overloaded", "The service is overloaded."),
    "quota": ("insufficient_quota", "insufficient_quota",
              "The account's quota is used up; check its plan and billing."),
    "context": ("invalid_request_error", "context_length_exceeded",
                "The prompt is longer than the model's context."),
}  # fmt: skip


class OpenAIWire:
    """The `Wire` of `POST /v1/chat/completions`."""

    name = "openai"

    def key(self, headers: Mapping[str, str]) -> str | None:
        """The bearer token."""
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        return key.strip() or None if scheme.lower() == "bearer" else None

    def read(self, body: Mapping[str, Any]) -> Prompt:
        """Read a chat completion request. BadRequestError if it would be refused."""
        return read_chat(body)

    def whole(self, answer: Answer, prompt: Prompt, reply: Reply) -> bytes:
        """One `chat.completion` object."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if answer.tool_calls else answer.text,
            "refusal": None,
            "annotations": [],
        }
        if answer.tool_calls:
            message["tool_calls"] = [
                _call(call, reply, i) for i, call in enumerate(answer.tool_calls)
            ]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": answer.finish,
        }
        head = _head(prompt, reply, "chat.completion")
        return dump({**head, "choices": [choice], "usage": _usage(answer.usage)})

    def stream(self, answer: Answer, prompt: Prompt, reply: Reply, chunks: int) -> Frames:
        """Role, content, finish reason, usage if asked, `[DONE]`, as chunks."""
        make = _Chunks(prompt, reply)
        if answer.tool_calls:
            opening = make.frame({"role": "assistant", "content": None, "refusal": None})
            content = make.tool_calls(answer.tool_calls, reply, chunks)
        else:
            opening = make.frame({"role": "assistant", "content": "", "refusal": None})
            content = make.texts(pieces(answer.text, chunks))
        closing = make.frame({}, answer.finish)
        if prompt.include_usage:
            closing += make.usage(answer.usage)
        return Frames(opening, content, closing + b"data: [DONE]\n\n")

    def error(self, refusal: Refusal, request_id: str) -> bytes:
        """`{"error": {...}}`; the request id travels in a header only."""
        kind, code, message = ERRORS[refusal.kind]
        error = {
            "message": refusal.message or message,
            "type": refusal.scope or kind,
            "param": refusal.param,
            "code": code,
        }
        return dump({"error": error})

    def stream_error(self, refusal: Refusal, request_id: str) -> bytes:
        """The error object as an unnamed event."""
        return b"data: " + self.error(refusal, request_id) + b"\n\n"

    def headers(self, request_id: str, budgets: Mapping[str, Budget]) -> dict[str, str]:
        """`x-request-id`, and `x-ratelimit-*` where there are limits."""
        made = {
            "x-request-id": request_id,
            "openai-version": "2020-10-01",
            "openai-organization": "simulated",
        }
        for scope, budget in budgets.items():
            made[f"x-ratelimit-limit-{scope}"] = str(budget.limit)
            made[f"x-ratelimit-remaining-{scope}"] = str(budget.remaining)
            made[f"x-ratelimit-reset-{scope}"] = _go_duration(budget.reset_s)
        return made

    def retry_headers(self, seconds: float) -> dict[str, str]:
        """Whole seconds, and the exact milliseconds beside them."""
        return {
            "retry-after": str(max(1, -int(-seconds // 1))),
            "retry-after-ms": str(max(1, -int(-seconds * 1000 // 1))),
        }

    def models(self, names: tuple[str, ...]) -> bytes:
        """`{"object": "list", "data": [...]}`."""
        fixed = {"object": "model", "created": _CREATED, "owned_by": "simulated"}
        data = [{"id": name, **fixed} for name in names]
        return dump({"object": "list", "data": data})


class _Chunks:
    """The `chat.completion.chunk` frames of one reply."""

    def __init__(self, prompt: Prompt, reply: Reply) -> None:
        self._head = _head(prompt, reply, "chat.completion.chunk")
        self._tail: dict[str, Any] = {"usage": None} if prompt.include_usage else {}
        self._padded = prompt.include_obfuscation

    def frame(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        return b"data: " + dump(self._value(delta, finish)) + b"\n\n"

    def texts(self, parts: list[str]) -> list[bytes]:
        return self._filled({"content": _GAP}, parts)

    def tool_calls(
        self, calls: tuple[ToolCall, ...], reply: Reply, chunks: int
    ) -> list[bytes]:
        frames: list[bytes] = []
        for index, call in enumerate(calls):
            empty = _call(ToolCall(call.name, ""), reply, index)
            frames.append(self.frame({"tool_calls": [{"index": index, **empty}]}))
            delta = {"tool_calls": [{"index": index, "function": {"arguments": _GAP}}]}
            frames += self._filled(delta, pieces(call.arguments, chunks))
        return frames

    def usage(self, usage: Usage) -> bytes:
        value = {**self._head, "choices": [], "usage": _usage(usage)}
        return b"data: " + dump(value) + b"\n\n"

    def _filled(self, delta: Mapping[str, Any], parts: list[str]) -> list[bytes]:
        before, after = around(self._value(delta, None), _GAP)
        before, after = b"data: " + before, after + b"\n\n"
        if not self._padded:
            return [before + dump(part) + after for part in parts]
        after = after[:-3]
        longest = len(_PADDING)
        return [
            before + dump(part) + after
            + f',"obfuscation":"{_PADDING[min(len(part), longest - 1):]}"}}\n\n'.encode()
            for part in parts
        ]  # fmt: skip

    def _value(self, delta: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "choices": [choice], **self._tail}


def _head(prompt: Prompt, reply: Reply, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{reply.request_id.removeprefix('req_')}",
        "object": kind,
        "created": reply.created,
        "model": prompt.model,
        "service_tier": "default",
        "system_fingerprint": _FINGERPRINT,
    }


def _call(call: ToolCall, reply: Reply, index: int) -> dict[str, Any]:
    return {
        "id": f"call_{reply.request_id.removeprefix('req_')}{index}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _go_duration(seconds: float) -> str:
    """`6m0s`, `1.5s` or `120ms`, as the service writes its resets."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    tail = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{int(minutes)}m{tail}" if minutes else tail
