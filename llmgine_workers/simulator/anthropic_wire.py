"""The Messages format: bodies, named stream events, errors and headers as Anthropic's."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from llmgine_workers.simulator.answer import Answer, ToolCall, Usage
from llmgine_workers.simulator.anthropic_request import read_messages
from llmgine_workers.simulator.limits import Budget
from llmgine_workers.simulator.prompt import Prompt
from llmgine_workers.simulator.wire import Frames, Refusal, Reply, around, dump, pieces

_GAP = "\x00gap"
_FINISH = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

# kind -> (type, message)
ERRORS = {
    "400": ("invalid_request_error", "The request was refused by the simulator."),
    "401": ("authentication_error", "invalid x-api-key"),
    "403": ("permission_error", "This key may not do that."),
    "404": ("not_found_error", "The model does not exist."),
    "413": ("request_too_large", "The request is too large."),
    "429": ("rate_limit_error", "This request would exceed the account's rate limit."),
    "500": ("api_error", "Internal server error"),
    "502": ("api_error", "Bad gateway"),
    "503": ("api_error", "Service unavailable"),
    "504": ("timeout_error", "The request took too long."),
    "529": ("overloaded_error", "Overloaded"),
    "quota": ("rate_limit_error", "The organization's spend limit is reached."),
    "context": ("invalid_request_error", "prompt is too long for the model's context"),
}


class AnthropicWire:
    """The `Wire` of `POST /v1/messages`."""

    name = "anthropic"

    def key(self, headers: Mapping[str, str]) -> str | None:
        """`x-api-key`, or a bearer token."""
        bearer = headers.get("Authorization", "").removeprefix("Bearer ").strip()
        return headers.get("x-api-key") or bearer or None

    def read(self, body: Mapping[str, Any]) -> Prompt:
        """Read a Messages request. BadRequestError if it would be refused."""
        return read_messages(body)

    def whole(self, answer: Answer, prompt: Prompt, reply: Reply) -> bytes:
        """One `message` object."""
        if answer.tool_calls:
            content = [
                _tool_use(call, reply, i, _parsed(call.arguments))
                for i, call in enumerate(answer.tool_calls)
            ]
        else:
            content = [{"type": "text", "text": answer.text}]
        message = _message(prompt, reply, content, _usage(answer.usage))
        message["stop_reason"] = _FINISH[answer.finish]
        return dump(message)

    def stream(self, answer: Answer, prompt: Prompt, reply: Reply, chunks: int) -> Frames:
        """Events from `message_start` to `message_stop`, with a ping among them."""
        start = {**_usage(answer.usage), "output_tokens": 1}
        opening = _event("message_start", {"message": _message(prompt, reply, [], start)})
        if answer.tool_calls:
            opening += _event("ping", {})
            content = _tool_frames(answer.tool_calls, reply, chunks)
            closing = b""
        else:
            block = {"type": "text", "text": ""}
            opening += _event("content_block_start", {"index": 0, "content_block": block})
            opening += _event("ping", {})
            delta = {"type": "text_delta", "text": _GAP}
            content = _deltas(0, delta, pieces(answer.text, chunks))
            closing = _event("content_block_stop", {"index": 0})
        closing += _event("message_delta", _final(answer)) + _event("message_stop", {})
        return Frames(opening, content, closing)

    def error(self, refusal: Refusal, request_id: str) -> bytes:
        """`{"type": "error", "error": {...}, "request_id": "..."}`."""
        kind, message = ERRORS[refusal.kind]
        error = {"type": kind, "message": refusal.message or message}
        return dump({"type": "error", "error": error, "request_id": request_id})

    def stream_error(self, refusal: Refusal, request_id: str) -> bytes:
        """The same body as an `error` event."""
        return b"event: error\ndata: " + self.error(refusal, request_id) + b"\n\n"

    def headers(self, request_id: str, budgets: Mapping[str, Budget]) -> dict[str, str]:
        """`request-id`, and `anthropic-ratelimit-*` where there are limits."""
        made = {"request-id": request_id, "anthropic-organization-id": "simulated"}
        now = datetime.now(UTC) if budgets else None
        for scope, budget in budgets.items():
            reset = (now or datetime.now(UTC)) + timedelta(seconds=budget.reset_s)
            name = f"anthropic-ratelimit-{scope}"
            made[f"{name}-limit"] = str(budget.limit)
            made[f"{name}-remaining"] = str(budget.remaining)
            made[f"{name}-reset"] = reset.strftime("%Y-%m-%dT%H:%M:%SZ")
        return made

    def retry_headers(self, seconds: float) -> dict[str, str]:
        """Whole seconds only."""
        return {"retry-after": str(max(1, -int(-seconds // 1)))}

    def models(self, names: tuple[str, ...]) -> bytes:
        """One page of `model` objects."""
        data = [
            {
                "type": "model",
                "id": name,
                "display_name": name,
                "created_at": "2026-01-01T00:00:00Z",
                "lifecycle": "active",
            }
            for name in names
        ]
        ends = {"first_id": names[0], "last_id": names[-1]} if names else {}
        return dump({"data": data, "has_more": False, **ends})


def _event(name: str, fields: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: ".encode() + dump({"type": name, **fields}) + b"\n\n"


def _message(
    prompt: Prompt, reply: Reply, content: list[dict[str, Any]], usage: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": f"msg_{reply.request_id.removeprefix('req_')}",
        "type": "message",
        "role": "assistant",
        "model": prompt.model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    """As this service counts: `input_tokens` is what the cache did not hold."""
    made: dict[str, Any] = {
        "input_tokens": usage.input - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": 0,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": usage.output,
        "service_tier": "standard",
    }
    if usage.reasoning:
        made["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return made


def _final(answer: Answer) -> dict[str, Any]:
    usage = _usage(answer.usage)
    del usage["cache_creation"], usage["service_tier"]
    delta = {"stop_reason": _FINISH[answer.finish], "stop_sequence": None}
    return {"delta": delta, "usage": usage}


def _tool_use(
    call: ToolCall, reply: Reply, index: int, value: dict[str, Any]
) -> dict[str, Any]:
    name = f"toolu_{reply.request_id.removeprefix('req_')}{index}"
    return {"type": "tool_use", "id": name, "name": call.name, "input": value}


def _tool_frames(calls: tuple[ToolCall, ...], reply: Reply, chunks: int) -> list[bytes]:
    frames: list[bytes] = []
    for index, call in enumerate(calls):
        block = _tool_use(call, reply, index, {})
        delta = {"type": "input_json_delta", "partial_json": _GAP}
        start = _event("content_block_start", {"index": index, "content_block": block})
        deltas = _deltas(index, delta, ["", *(pieces(call.arguments, chunks) or [""])])
        stop = _event("content_block_stop", {"index": index})
        frames += [start + deltas[0], *deltas[1:-1], deltas[-1] + stop]
    return frames


def _deltas(index: int, delta: Mapping[str, Any], parts: list[str]) -> list[bytes]:
    frame = {"type": "content_block_delta", "index": index, "delta": delta}
    before, after = around(frame, _GAP)
    before = b"event: content_block_delta\ndata: " + before
    return [before + dump(part) + after + b"\n\n" for part in parts]


def _parsed(arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
