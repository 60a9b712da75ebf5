"""One call over HTTP: sent, bounded, read, judged; the same for every wire format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Any
from urllib.parse import quote

import aiohttp
import httpx2
import orjson

from llmgine_workers.llm import (
    Delta,
    Embedded,
    EmbedRequest,
    LlmAnswer,
    LlmRequest,
    OnDelta,
)
from llmgine_workers.providers import embeddings, failures, wire
from llmgine_workers.providers.lines import Response, Unsigned
from llmgine_workers.providers.quota import quota_of
from llmgine_workers.providers.rows import Service
from llmgine_workers.providers.sse import EventParser, EventTooLong
from llmgine_workers.providers.verdict import Verdict, request_id

MAX_ANSWER = 16 * 1024**2
"""Bytes of a whole answer: far beyond any model, far below a worker's memory."""

_REST_S = 0.25
"""Seconds a finished stream has to end, so that its connection can be used again."""

_UNREADABLE = (ValueError, KeyError, IndexError, TypeError, AttributeError)
_LOST = (aiohttp.ClientError, httpx2.HTTPError, httpx2.StreamError, OSError)


class HttpProvider:
    """One service behind one wire format; see `llm.Provider`.

    The official SDK's client knows addresses, keys and headers, and signs where that is
    to be done; the answer's bytes are read here, because the SDK's reading costs more
    than all the rest and does not notice an answer that breaks off.
    """

    def __init__(
        self, name: str, form: wire.Wire, service: Service, *, url: str, key: str
    ) -> None:
        self.name = name
        self._form = form
        self._service = service
        self._key = key
        self._line = service.client(service, url, key)

    async def call(
        self,
        request: LlmRequest,
        *,
        timeout_s: float,
        headers: Mapping[str, str],
        on_delta: OnDelta | None = None,
    ) -> LlmAnswer:
        """One physical call, whole or streamed; at most `timeout_s` seconds."""
        verdict = Verdict(self.name, self._key, request)
        follower = self._form.follow()
        body = self._form.body(request, self._service, streamed=on_delta is not None)
        idle_s = self._service.idle_s if on_delta else None
        try:
            async with asyncio.timeout(timeout_s) as bound:
                response = await self._send(
                    verdict, self._service.path, body, headers, idle_s
                )
                try:
                    return await self._receive(verdict, response, follower, on_delta)
                finally:
                    await response.aclose()
        except TimeoutError:
            if not bound.expired():
                raise
            sentence = f"gave no whole answer in {timeout_s:g} s"
            reading = follower.reading()
            raise verdict.failed("step_timeout", sentence, reading=reading) from None

    async def embed(
        self, request: EmbedRequest, *, timeout_s: float, headers: Mapping[str, str]
    ) -> Embedded:
        """One physical call for vectors; at most `timeout_s` seconds."""
        verdict, path = Verdict(self.name, self._key, request), self._service.embeddings
        if path is None:
            raise verdict.failed("provider_rejected", "has no embeddings")
        body = embeddings.body_of(request, self._service)
        try:
            async with asyncio.timeout(timeout_s) as bound:
                response = await self._send(verdict, path, body, headers, None)
                try:
                    _note(verdict, response)
                    return await self._vectors(verdict, request, response)
                finally:
                    await response.aclose()
        except TimeoutError:
            if not bound.expired():
                raise
            sentence = f"gave no whole answer in {timeout_s:g} s"
            raise verdict.failed("step_timeout", sentence) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._line.close()

    async def _send(
        self,
        verdict: Verdict,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        idle_s: float | None,
    ) -> Response:
        """Post the request; the answer's head has come, its body not yet."""
        try:
            return await self._line.post(
                path.format(model=quote(verdict.request.model, safe="")),
                orjson.dumps(body),
                headers,
                idle_s,
            )
        except orjson.JSONEncodeError:
            sentence = "cannot be sent what JSON cannot hold"
            raise verdict.failed("provider_rejected", sentence) from None
        except Unsigned as error:
            sentence = f"could not be called: no credentials ({error})"
            raise verdict.failed("provider_unreachable", sentence) from None
        except Exception as error:  # every SDK has its own; what is not one goes on
            response = getattr(error, "response", None)
            if response is not None:
                raise verdict.answered(response) from None
            found = failures.broken(error)
            if found is None:
                raise
            raise verdict.failed(*found) from None

    async def _receive(
        self,
        verdict: Verdict,
        response: Response,
        follower: wire.Follower,
        on_delta: OnDelta | None,
    ) -> LlmAnswer:
        _note(verdict, response)
        if on_delta is None:
            return await self._whole(verdict, response)
        if response.headers.get("content-type", "").startswith("application/json"):
            # Some services do not stream although they were asked to.
            answer = await self._whole(verdict, response)
            await on_delta(Delta(text=answer.text))
            return answer
        return await _Stream(verdict, follower).read(response, on_delta)

    async def _whole(self, verdict: Verdict, response: Response) -> LlmAnswer:
        with _judged(verdict):
            return verdict.answer(self._form.read(await _document(verdict, response)))

    async def _vectors(
        self, verdict: Verdict, request: EmbedRequest, response: Response
    ) -> Embedded:
        with _judged(verdict):
            document = await _document(verdict, response)
            found = verdict.embedded(*embeddings.read(document, len(request.texts)))
        size = len(found.vectors[0])
        if request.dimensions not in (None, size):
            sentence = f"gave vectors of {size} numbers, not of {request.dimensions}"
            paid = wire.Reading("", "stop", found.model, found.usage)
            raise verdict.failed("provider_rejected", sentence, reading=paid)
        return found


def _note(verdict: Verdict, response: Response) -> None:
    """Keep what the head of an answer says."""
    verdict.status = response.status_code
    verdict.request_id = request_id(response)
    verdict.quota = quota_of(response.headers)


async def _document(verdict: Verdict, response: Response) -> Any:
    """The whole body as JSON."""
    body = bytearray()
    async with aclosing(_chunks(verdict, response)) as chunks:
        async for chunk in chunks:
            body += chunk
    return orjson.loads(body)


@contextmanager
def _judged(verdict: Verdict) -> Iterator[None]:
    """Whatever is wrong with a whole answer, as the failure of its call."""
    try:
        yield
    except wire.ErrorEvent as error:
        raise verdict.told(failures.told(error.document)) from None
    except _LOST as error:
        raise verdict.lost(error, "provider_bad_response") from None
    except _UNREADABLE:
        raise verdict.failed("provider_bad_response") from None


async def _chunks(verdict: Verdict, response: Response) -> AsyncGenerator[bytes, None]:
    """The body in pieces, as they come, up to `MAX_ANSWER`."""
    size = 0
    async for chunk in response.aiter_bytes():
        verdict.begun = True
        size += len(chunk)
        if size > MAX_ANSWER:
            raise verdict.failed("provider_bad_response", "answered without an end")
        yield chunk


class _Stream:
    """One streamed answer, from the first byte to the verdict."""

    def __init__(self, verdict: Verdict, follower: wire.Follower) -> None:
        self._verdict = verdict
        self._follower = follower
        self._parser = EventParser()
        self._events = 0

    async def read(self, response: Response, on_delta: OnDelta) -> LlmAnswer:
        async with aclosing(_chunks(self._verdict, response)) as chunks:
            while not self._follower.done:
                chunk = await self._next(chunks)
                for delta in self._deltas(chunk):
                    await on_delta(delta)
                if chunk is None:
                    return self._answer()
            await _rest(chunks)
        return self._answer()

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        try:
            return await anext(chunks, None)
        except _LOST as error:
            reading = self._follower.reading()
            if reading.finish_reason is not None:
                return None  # the answer is whole, only its connection is not
            raise self._verdict.lost(error, "stream_cut", reading=reading) from None

    def _deltas(self, chunk: bytes | None) -> Sequence[Delta]:
        """The pieces in a chunk; None is the end, where half an event is no error."""
        reading = self._follower.reading
        try:
            events = self._parser.end() if chunk is None else self._parser.feed(chunk)
            self._events += len(events)
            return [delta for event in events for delta in self._follower.feed(event)]
        except wire.ErrorEvent as error:
            said = failures.told(error.document)
            raise self._verdict.told(said, reading=reading()) from None
        except (EventTooLong, *_UNREADABLE):
            if chunk is None:
                return ()
            raise self._verdict.failed(
                "provider_bad_response", reading=reading()
            ) from None

    def _answer(self) -> LlmAnswer:
        if not self._events:
            raise self._verdict.failed("provider_bad_response")
        return self._verdict.answer(self._follower.reading())


async def _rest(chunks: AsyncIterator[bytes]) -> None:
    """Let a finished stream end by itself; else its connection is thrown away."""
    with suppress(TimeoutError, *_LOST):
        async with asyncio.timeout(_REST_S):
            async for _ in chunks:
                pass
