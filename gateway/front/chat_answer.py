"""A finished step as a `chat.completion`, and a running one as its chunks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from gateway.front.envelope import error

_FINISH = frozenset({"stop", "length", "tool_calls", "content_filter"})
DONE = b"data: [DONE]\n\n"


def completion(job: UUID, step: Mapping[str, Any]) -> dict[str, Any]:
    """The whole answer of a step that succeeded."""
    message = {"role": "assistant", "content": step["text"], "refusal": None}
    return {
        **_head(job, "chat.completion", step["model"]),
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": finish_reason(step),
            }
        ],
        "usage": usage(step),
    }


def finish_reason(step: Mapping[str, Any]) -> str:
    """One of their words; a service's own word for a whole answer is `stop`."""
    reason = step["finish_reason"]
    return reason if reason in _FINISH else "stop"


def usage(step: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens of all the step's calls."""
    used = step["usage"]
    return {
        "prompt_tokens": used["input_tokens"],
        "completion_tokens": used["output_tokens"],
        "total_tokens": used["input_tokens"] + used["output_tokens"],
        "prompt_tokens_details": {"cached_tokens": used["cached_input_tokens"]},
        "completion_tokens_details": {"reasoning_tokens": used["reasoning_tokens"]},
    }


def created(job: UUID) -> int:
    """When the job was made (Unix seconds): a UUIDv7 begins with it."""
    return (job.int >> 80) // 1000


@dataclass
class Chunks:
    """One answer on its way: events in, chunks out.

    What was sent cannot be taken back in this format. So an answer that begins anew
    after its first piece ends in an error, and after a gap in the events nothing is
    sent until the whole text is known.
    """

    job: UUID
    model: str
    with_usage: bool
    is_over: bool = False
    _sent: list[str] = field(default_factory=list)
    _attempt: int | None = None
    _is_muted: bool = False

    def gap(self) -> None:
        """Events were lost."""
        self._is_muted = True

    def event(self, kind: str, data: bytes) -> bytes:
        """What one event adds to the answer, maybe nothing."""
        if self.is_over:
            return b""
        if kind == "step.started":
            self.model = orjson.loads(data)["model"] or self.model
        elif kind == "step.delta":
            delta = orjson.loads(data)
            if self._attempt not in (None, delta["attempt"]):
                return self._began_anew()
            if delta.get("text") and not self._is_muted:
                self._attempt = delta["attempt"]
                return self._piece(delta["text"])
        elif kind == "step.restarted":
            return self._began_anew()
        return b""

    def end(self, step: Mapping[str, Any]) -> bytes:
        """The rest of the text, why it ended, the usage, and that this is all."""
        sent, text = "".join(self._sent), step["text"] or ""
        if not text.startswith(sent):
            return self._began_anew()
        self.model = step["model"]
        rest = self._piece(text[len(sent) :]) if text[len(sent) :] or not sent else b""
        last = self._chunk([_choice({}, finish_reason(step))])
        counted = self._chunk([], usage(step)) if self.with_usage else b""
        self.is_over = True
        return rest + last + counted + DONE

    def fail(self, body: Mapping[str, Any]) -> bytes:
        """An error in place of the rest; their clients raise it."""
        self.is_over = True
        return _frame({"error": body})

    def _began_anew(self) -> bytes:
        if not self._sent:
            return b""
        message = (
            f"the answer began anew after part of it was sent; job {self.job} goes on, "
            f"read it at /v1/jobs/{self.job}"
        )
        return self.fail(error(502, "stream_restarted", message))

    def _piece(self, text: str) -> bytes:
        first = {} if self._sent else {"role": "assistant"}
        self._sent.append(text)
        return self._chunk([_choice({**first, "content": text}, None)])

    def _chunk(
        self, choices: list[dict[str, Any]], counted: dict[str, Any] | None = None
    ) -> bytes:
        chunk = {
            **_head(self.job, "chat.completion.chunk", self.model),
            "choices": choices,
        }
        if self.with_usage:
            chunk["usage"] = counted
        return _frame(chunk)


def _choice(delta: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _head(job: UUID, kind: str, model: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{job.hex}",
        "object": kind,
        "created": created(job),
        "model": model,
    }


def _frame(value: Any) -> bytes:
    return b"data: %s\n\n" % orjson.dumps(value)
