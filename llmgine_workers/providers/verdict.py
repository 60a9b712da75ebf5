"""What one call comes to: an answer, or a failure told in one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmgine_workers import prices
from llmgine_workers.errors import Failure
from llmgine_workers.llm import (
    CallFailed,
    Embedded,
    EmbedRequest,
    LlmAnswer,
    LlmRequest,
    Quota,
    Usage,
)
from llmgine_workers.providers import failures
from llmgine_workers.providers import quota as quotas
from llmgine_workers.providers.redaction import readable
from llmgine_workers.providers.wire import Reading

_WITH_WORDS = frozenset({"provider_rejected", "context_too_long"})
"""Where the service's own sentence says what to mend."""

_REQUEST_ID = (
    "x-request-id",
    "request-id",
    "apim-request-id",
    "mistral-correlation-id",
    "x-ds-trace-id",
)
"""Of OpenAI and most, Anthropic, Azure, Mistral, DeepSeek."""

_NOTHING = Reading(text="", finish_reason=None, model=None, usage=None)


@dataclass
class Verdict:
    """What is known of a call while it runs; it decides what a failure means.

    `begun`: a byte of the answer has come. Every `reading` is what it said until then.
    """

    provider: str
    key: str
    request: LlmRequest | EmbedRequest
    status: int | None = None
    request_id: str | None = None
    begun: bool = False
    quota: Quota = field(default_factory=Quota)

    def answer(self, reading: Reading) -> LlmAnswer:
        """The answer; raises CallFailed for a refusal and for an end without reason."""
        if reading.refused:
            raise self.failed("content_refused", reading=reading)
        if reading.finish_reason is None:
            raise self.failed("stream_cut", "broke off its answer", reading=reading)
        return LlmAnswer(
            text=reading.text,
            finish_reason=reading.finish_reason,
            model=reading.model or self.request.model,
            usage=reading.usage or self._estimate(reading),
            status=self.status or 0,
            request_id=self.request_id,
            quota=self.quota,
        )

    def embedded(
        self, vectors: list[list[float]], model: str | None, usage: Usage | None
    ) -> Embedded:
        """The vectors of an answer."""
        return Embedded(
            vectors=vectors,
            model=model or self.request.model,
            usage=usage or self._estimate(_NOTHING),
            status=self.status or 0,
            request_id=self.request_id,
            quota=self.quota,
        )

    def failed(
        self,
        code: str,
        sentence: str | None = None,
        *,
        reading: Reading = _NOTHING,
        retry_after_s: float | None = None,
    ) -> CallFailed:
        """The failure of this call with that code."""
        failure = Failure(
            code=code,
            message=f"{self.provider} {sentence or failures.SENTENCES[code]}",
            model=f"{self.provider}/{self.request.model}",
            status=self.status,
            request_id=self.request_id,
        )
        return CallFailed(
            failure,
            retry_after_s=retry_after_s,
            before_first_byte=not self.begun,
            usage=self._billed(reading),
        )

    def told(self, said: failures.Told, *, reading: Reading = _NOTHING) -> CallFailed:
        """The failure that the service put where an answer should be."""
        return self.failed(
            failures.code_of(None, said), self._sentence(None, said), reading=reading
        )

    def lost(
        self, error: BaseException, code: str, *, reading: Reading = _NOTHING
    ) -> CallFailed:
        """The failure of a connection that broke inside the answer."""
        if failures.timed_out(error):
            return self.failed("provider_timeout", reading=reading)
        return self.failed(code, "broke off its answer", reading=reading)

    def answered(self, response: Any) -> CallFailed:
        """The failure that an error status means (the response is read)."""
        self.status = response.status_code
        self.request_id = request_id(response)
        said = failures.told_by(response.content)
        return self.failed(
            failures.code_of(self.status, said),
            self._sentence(self.status, said),
            retry_after_s=_come_back_s(response.headers, said),
        )

    def _sentence(self, status: int | None, said: failures.Told) -> str:
        code = failures.code_of(status, said)
        sentence = failures.SENTENCES[code]
        if status is not None:
            sentence += f" ({status})"
        if code not in _WITH_WORDS:
            return sentence
        words = readable(said.sentence, key=self.key, prompts=self.request.texts)
        return f"{sentence}: {words}" if words else sentence

    def _billed(self, reading: Reading) -> Usage | None:
        """What a failed call costs; None if nothing of an answer was seen."""
        if not (reading.usage or reading.text):
            return None
        estimate = self._estimate(reading)
        if reading.usage is None:
            return estimate
        if reading.finish_reason is not None:
            return reading.usage
        output = max(reading.usage.output_tokens, estimate.output_tokens)
        return replace(reading.usage, output_tokens=output)

    def _estimate(self, reading: Reading) -> Usage:
        size = len(reading.text.encode("utf-8", "surrogatepass"))
        return Usage(
            calls=1,
            input_tokens=prices.estimate_tokens(self.request.texts),
            output_tokens=prices.estimate_tokens_of_bytes(size),
        )


def _come_back_s(headers: Mapping[str, str], said: failures.Told) -> float | None:
    """When to ask again, by the plainest word that the service gave."""
    asked_s = failures.retry_after_s(headers)
    if asked_s is None:
        asked_s = said.retry_after_s
    if asked_s is None:
        reset = quotas.reset_s(headers)
        asked_s = None if reset is None else failures.clamped(reset)
    return asked_s


def request_id(response: Any) -> str | None:
    """The service's own id of the call, from whichever header it comes in."""
    found = (response.headers.get(name) for name in _REQUEST_ID)
    return next((name[:200] for name in found if name), None)
