"""One call from its first byte to its log line: read, decide, deliver."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from llmgine_workers.simulator.answer import Answer, compose
from llmgine_workers.simulator.call_log import CallLog, CallRecord
from llmgine_workers.simulator.chance import draw
from llmgine_workers.simulator.config import SimulatorConfig
from llmgine_workers.simulator.delivery import Delivery, Pace
from llmgine_workers.simulator.directives import Directives, read_directives
from llmgine_workers.simulator.embeddings import embed, read_inputs
from llmgine_workers.simulator.faults import FaultBook, FaultRule
from llmgine_workers.simulator.limits import RateLimits, RateRefusal
from llmgine_workers.simulator.prompt import BadRequestError, Prompt, text_sha256
from llmgine_workers.simulator.wire import Frames, Refusal, Reply, Wire

# Without a set time to the first token: this share of the whole latency.
_FIRST_TOKEN_SHARE = 0.25


class RefusedError(Exception):
    """The call is answered with an error status."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.kind)
        self.refusal = refusal


class CallHandler:
    """Answers the calls of one wire format, within that account's limits."""

    def __init__(
        self, wire: Wire, config: SimulatorConfig, faults: FaultBook, log: CallLog
    ) -> None:
        self._wire = wire
        self._config = config
        self._faults = faults
        self._log = log
        self._limits = RateLimits(config.requests, config.tokens, config.window)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """A chat completion or a message, whichever this wire has."""
        return await self._serve(request, "chat")

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """Embedding vectors."""
        return await self._serve(request, "embeddings")

    async def _serve(self, request: web.Request, endpoint: str) -> web.StreamResponse:
        arrived = asyncio.get_running_loop().time()
        raw = await request.read()
        record = self._log.new(self._wire.name, endpoint)
        _identify(record, request.headers)
        delivery = Delivery(request, self._wire, record, {}, arrived)
        verdict = self._verdict(delivery, raw)
        budgets = self._limits.budgets(asyncio.get_running_loop().time())
        delivery.headers |= self._wire.headers(record.request_id, budgets)
        self._log.begin(record)
        try:
            if isinstance(verdict, Refusal):
                return await delivery.refuse(verdict)
            return await delivery.answer(verdict)
        except ConnectionError:
            return web.Response()  # the client left while we wrote: nobody reads this
        finally:
            if delivery.ended == "refused":
                _bill_nothing(record)
            self._log.end(record, delivery.ended)

    def _verdict(self, delivery: Delivery, raw: bytes) -> Refusal | FaultRule | None:
        """Refuse it, spoil it or (None) answer it; the answer is in the delivery then."""
        try:
            return self._decide(delivery, raw)
        except RefusedError as error:
            return error.refusal
        except BadRequestError as error:
            return Refusal("400", error.message, error.param)

    def _decide(self, delivery: Delivery, raw: bytes) -> FaultRule | None:
        record = delivery.record
        self._check_key(delivery.request.headers)
        body = _object(raw)
        prepare = self._embed if record.endpoint == "embeddings" else self._answer
        wishes = prepare(delivery, body)
        self._admit(record)
        about = (record.job, record.step) if record.job else (record.prompt_sha256,)
        return self._faults.pick(record, record.n, wishes.faults, about)

    def _embed(self, delivery: Delivery, body: Mapping[str, Any]) -> Directives:
        record = delivery.record
        texts = read_inputs(body)
        record.model = body["model"]
        self._check_model(record.model)
        record.prompt_sha256 = text_sha256("\n".join(texts))
        delivery.body, record.input_tokens = embed(texts, body, self._config.seed)
        wishes = read_directives("\n".join(texts), record.step)
        delivery.pace = self._pace(record.n, wishes, 0)
        return wishes

    def _answer(self, delivery: Delivery, body: Mapping[str, Any]) -> Directives:
        record = delivery.record
        prompt = self._wire.read(body)
        record.model, record.stream = prompt.model, prompt.stream
        record.prompt_sha256 = prompt.sha256
        self._check_model(prompt.model)
        wishes = read_directives(prompt.text, record.step)
        answer = compose(prompt, wishes, self._config)
        _bill(record, answer)
        delivery.body = self._encoded(prompt, answer, record, wishes)
        frames = len(delivery.body.content) if isinstance(delivery.body, Frames) else 0
        delivery.pace = self._pace(record.n, wishes, frames)
        return wishes

    def _encoded(
        self, prompt: Prompt, answer: Answer, record: CallRecord, wishes: Directives
    ) -> bytes | Frames:
        reply = Reply(record.request_id, int(time.time()))
        if not prompt.stream:
            return self._wire.whole(answer, prompt, reply)
        chunks = wishes.chunks or self._config.chunks
        return self._wire.stream(answer, prompt, reply, chunks)

    def _pace(self, n: int, wishes: Directives, chunks: int) -> Pace:
        """As wished, else as configured, else as drawn for the n-th call."""
        config = self._config
        drawn = config.latency.at(draw(config.seed, "latency", n))
        last = drawn if wishes.latency is None else wishes.latency
        first = config.first_token if wishes.first_token is None else wishes.first_token
        if first is None:
            first = last * _FIRST_TOKEN_SHARE
        if config.chunk_rate is not None:
            return Pace(first, 1.0 / config.chunk_rate, last)
        return Pace(first, max(0.0, last - first) / max(1, chunks - 1), last)

    def _check_key(self, headers: Mapping[str, str]) -> None:
        if self._config.require_key and self._wire.key(headers) in (None, "bad"):
            raise RefusedError(Refusal("401"))

    def _check_model(self, model: str) -> None:
        if self._config.models and model not in self._config.models:
            message = f"The model '{model}' does not exist or is not open to you."
            raise RefusedError(Refusal("404", message, "model"))

    def _admit(self, record: CallRecord) -> None:
        tokens = record.input_tokens + record.output_tokens
        refused = self._limits.admit(tokens, asyncio.get_running_loop().time())
        if refused is not None:
            message = _explained(refused, record.model, self._config.window)
            wait = refused.retry_after
            raise RefusedError(Refusal("429", message, None, refused.scope, wait))


def _explained(refused: RateRefusal, model: str, window: float) -> str:
    return (
        f"Rate limit reached for {model} on {refused.scope}: limit {refused.limit} in "
        f"{window:g} s, used {refused.used}, requested {refused.requested}. "
        f"Try again in {refused.retry_after:.3f} s."
    )


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("The body of the request is not valid JSON.") from error
    if not isinstance(body, dict):
        raise BadRequestError("The body of the request must be a JSON object.")
    return body


def _identify(record: CallRecord, headers: Mapping[str, str]) -> None:
    """Take over what the client says about itself."""
    record.job = headers.get("x-llmgine-job")
    record.step = headers.get("x-llmgine-step")
    record.attempt = _number(headers.get("x-llmgine-attempt"))
    record.fence = _number(headers.get("x-llmgine-fence"))


def _number(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _bill(record: CallRecord, answer: Answer) -> None:
    usage = answer.usage
    record.text_sha256 = text_sha256(answer.text)
    record.tool_calls = [call.name for call in answer.tool_calls]
    record.input_tokens, record.cached_input_tokens = usage.input, usage.cached
    record.output_tokens, record.reasoning_tokens = usage.output, usage.reasoning


def _bill_nothing(record: CallRecord) -> None:
    record.input_tokens = record.cached_input_tokens = 0
    record.output_tokens = record.reasoning_tokens = 0
    record.text_sha256, record.tool_calls = None, []
