"""Bytes as real services send them, and as they should not."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence

import pytest

from llmgine_workers.llm import CallFailed, LlmAnswer, Usage
from tests.providers.conftest import (
    ANTHROPIC,
    JOB,
    KEY,
    OPENAI,
    SIDES,
    Pieces,
    Seen,
    Side,
    answering,
    head,
    until,
)


async def call(
    side: Side, pieces: Sequence[bytes], on_delta: Pieces | None = None
) -> LlmAnswer:
    async with answering(pieces) as origin:
        provider = side.open(origin)
        try:
            return await provider.call(
                side.request("What now?"), timeout_s=5, headers=JOB, on_delta=on_delta
            )
        finally:
            await provider.close()


async def code_of(
    side: Side, pieces: Sequence[bytes], on_delta: Pieces | None = None
) -> str:
    with pytest.raises(CallFailed) as caught:
        await call(side, pieces, on_delta)
    return caught.value.failure.code


def openai_chunk(**delta: object) -> dict[str, object]:
    finish = delta.pop("finish_reason", None)
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "model": "m", "choices": [choice]}


USAGE = {
    "prompt_tokens": 20,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens": 9,
    "completion_tokens_details": {"reasoning_tokens": 4},
}
OPENAI_EVENTS: tuple[dict[str, object], ...] = (
    openai_chunk(role="assistant", content=""),
    openai_chunk(reasoning_content="Hm."),
    openai_chunk(content="Grüße, "),
    openai_chunk(content="🐇 日本"),
    openai_chunk(finish_reason="stop"),
    {"model": "m", "choices": [], "usage": USAGE},
    {"model": "m", "choices": [], "usage": None},
)
ANTHROPIC_EVENTS: tuple[dict[str, object], ...] = (
    {
        "type": "message_start",
        "message": {
            "model": "m",
            "usage": {
                "input_tokens": 12,
                "cache_read_input_tokens": 5,
                "cache_creation_input_tokens": 3,
                "output_tokens": 1,
            },
        },
    },
    {"type": "ping"},
    {
        "type": "content_block_start",
        "content_block": {"type": "thinking", "thinking": ""},
    },
    {
        "type": "content_block_delta",
        "delta": {"type": "thinking_delta", "thinking": "Hm."},
    },
    {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Grüße, "}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "🐇 日本"}},
    {"type": "something_new", "of": "next year"},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}},
    },
    {"type": "message_stop"},
)
EVENTS = {"openai": OPENAI_EVENTS, "anthropic": ANTHROPIC_EVENTS}


def stream(
    events: Sequence[object], *, data: str = "data: ", end: str = "\n", done: bool = True
) -> bytes:
    """Events as one body; anthropic's get their names."""
    text = f": connected{end}{end}"
    for event in events:
        if isinstance(event, dict) and "type" in event:
            text += f"event: {event['type']}{end}"
        text += data + json.dumps(event, ensure_ascii=False) + end + end
    if done and "choices" in str(events):
        text += f"{data}[DONE]{end}{end}"
    return text.encode()


BODIES = {
    "as the real ones": {},
    "CRLF": {"end": "\r\n"},
    "CR": {"end": "\r"},
    "no space after the colon": {"data": "data:"},
    "no DONE": {"done": False},
}


@pytest.mark.parametrize("how", BODIES)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_streams_are_read_however_they_are_written_and_cut(
    side: Side, how: str, size: int
) -> None:
    body = stream(EVENTS[side.name], **BODIES[how])  # type: ignore[arg-type]
    cut = [body[at : at + size] for at in range(0, len(body), size)]
    if size == 1:  # byte by byte only through the reader, not 1,500 times over TCP
        cut = [b"".join(cut[:300]), *cut[300:420], b"".join(cut[420:])]
    pieces = Pieces()
    answer = await call(side, [head(), *cut], pieces)
    assert answer.text == pieces.text == "Grüße, 🐇 日本"
    assert "".join(d.reasoning or "" for d in pieces.deltas) == "Hm."
    assert answer.finish_reason == "stop"
    assert answer.usage == Usage(1, 20, 5, 9, 4)


async def test_a_last_event_without_its_blank_line_counts(side: Side) -> None:
    body = stream(EVENTS[side.name], done=False).rstrip(b"\n")
    assert (await call(side, [head(), body], Pieces())).usage.output_tokens == 9


async def test_half_a_last_event_is_a_cut_stream(side: Side) -> None:
    body = stream(EVENTS[side.name][:3], done=False) + b'data: {"type": "mess'
    assert await code_of(side, [head(), body], Pieces()) == "stream_cut"


async def test_an_end_without_reason_is_a_cut_stream(side: Side) -> None:
    whole = EVENTS[side.name]
    body = stream([e for e in whole if "stop" not in json.dumps(e)])
    assert await code_of(side, [head(), body], Pieces()) == "stream_cut"


async def test_an_answer_is_whole_once_its_reason_came(side: Side) -> None:
    lines = stream(EVENTS[side.name], done=False)
    last = {"openai": b'data: {"model": "m", "choices": []', "anthropic": b"event: mes"}
    body = lines[: lines.rindex(last[side.name])]
    announced = head("200 OK", "Content-Length: 9999", "Connection: close")
    assert (await call(side, [announced, body], Pieces())).finish_reason == "stop"


async def test_usage_that_nobody_reported_is_estimated() -> None:
    answer = await call(OPENAI, [head(), stream(OPENAI_EVENTS[:-2])], Pieces())
    assert answer.usage.calls == 1
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


async def test_a_finished_stream_may_stay_open(side: Side) -> None:
    body = stream(EVENTS[side.name])
    async with answering([head(), body], then_hang=True) as origin:
        provider = side.open(origin)
        answer = await provider.call(
            side.request("Hi"), timeout_s=2, headers={}, on_delta=Pieces()
        )
        await provider.close()
    assert answer.finish_reason == "stop"


async def test_a_connection_serves_the_next_stream_too(side: Side) -> None:
    body = stream(EVENTS[side.name])
    chunked = head("200 OK", "Transfer-Encoding: chunked")
    size = f"{len(body):x}\r\n".encode()
    seen = Seen()
    async with answering(
        [chunked, size, body, b"\r\n", b"0\r\n\r\n"], seen=seen
    ) as origin:
        provider = side.open(origin)
        for _ in range(3):
            await provider.call(
                side.request("Hi"), timeout_s=2, headers={}, on_delta=Pieces()
            )
        await provider.close()
    assert (len(seen.requests), seen.connections) == (3, 1)


async def test_a_call_that_failed_leaves_no_connection_open(side: Side) -> None:
    seen = Seen()
    bad = [head(), b"data: nonsense\n\n"]
    async with answering(bad, then_hang=True, seen=seen) as origin:
        provider = side.open(origin)
        with pytest.raises(CallFailed) as caught:
            await provider.call(
                side.request("Hi"), timeout_s=2, headers={}, on_delta=Pieces()
            )
        await until(lambda: seen.left == 1)
        await provider.close()
    assert caught.value.failure.code == "provider_bad_response"


def whole(side: Side, **fields: object) -> bytes:
    reason = fields.pop("reason", None)
    text = fields.pop("text", "Yes.")
    if side is OPENAI:
        message = {"role": "assistant", "content": text, **fields}
        choice = {"index": 0, "message": message, "finish_reason": reason or "stop"}
        document: object = {"model": "m", "choices": [choice], "usage": USAGE}
    else:
        block = {"type": "text", "text": text}
        document = {
            "type": "message",
            "model": "m",
            "content": [block],
            "stop_reason": reason or "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 4},
        }
    return json.dumps(document).encode()


JSON_HEAD = head(kind="application/json")


async def test_a_service_that_does_not_stream_is_understood(side: Side) -> None:
    pieces = Pieces()
    answer = await call(side, [JSON_HEAD, whole(side)], pieces)
    assert answer.text == pieces.text == "Yes."


@pytest.mark.parametrize("stream_it", [False, True])
async def test_html_with_status_200_is_a_bad_response(
    side: Side, stream_it: bool
) -> None:
    html = [head(kind="text/html"), b"<html>Please log in</html>"]
    on_delta = Pieces() if stream_it else None
    assert await code_of(side, html, on_delta) == "provider_bad_response"


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'{"choices": []}', b'{"content": 3}', b'{"a": "\xff"}', b"{"],
)
async def test_an_answer_of_another_shape_is_a_bad_response(
    side: Side, body: bytes
) -> None:
    assert await code_of(side, [JSON_HEAD, body]) == "provider_bad_response"


async def test_events_of_another_shape_are_a_bad_response(side: Side) -> None:
    for bad in (b"data: nonsense\n\n", b"data: 3\n\n", b'data: {"type": "error"\n\n'):
        assert await code_of(side, [head(), bad], Pieces()) == "provider_bad_response"


async def test_what_is_no_http_is_a_bad_response(side: Side) -> None:
    assert await code_of(side, [b"220 mail.example ESMTP\r\n"]) == "provider_bad_response"


async def test_a_body_without_end_is_given_up(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgine_workers.providers.exchange.MAX_ANSWER", 100_000)
    flood = [JSON_HEAD, whole(side, text="x" * 200_000)]
    assert await code_of(side, flood) == "provider_bad_response"
    comments = [b": comment\n" * 5_000] * 8
    endless = [head(), *comments, stream(EVENTS[side.name])]
    assert await code_of(side, endless, Pieces()) == "provider_bad_response"


async def test_an_event_without_end_is_given_up(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgine_workers.providers.sse.MAX_EVENT", 10_000)
    flood = [head(), b"data: ", *[b"x" * 5_000] * 8]
    assert await code_of(side, flood, Pieces()) == "provider_bad_response"


async def test_compression_is_not_asked_for_but_understood(side: Side) -> None:
    seen = Seen()
    zipped = gzip.compress(whole(side))
    answer = [
        head(
            "200 OK",
            "Content-Encoding: gzip",
            "Connection: close",
            kind="application/json",
        ),
        zipped,
    ]
    async with answering(answer, seen=seen) as origin:
        provider = side.open(origin)
        got = await provider.call(side.request("Hi"), timeout_s=5, headers={})
        await provider.close()
    assert got.text == "Yes."
    assert b"accept-encoding: identity" in seen.requests[0].lower()
    damaged = [answer[0], zipped[:-12] + b"damaged data"]
    assert await code_of(side, damaged) == "provider_bad_response"


async def test_a_redirect_is_not_followed_with_the_key(side: Side) -> None:
    seen = Seen()
    async with answering([JSON_HEAD], seen=seen) as elsewhere:
        where = f"Location: {elsewhere}/v1/messages"
        away = head("307 Temporary Redirect", where, "Connection: close")
        assert await code_of(side, [away]) == "provider_rejected"
    assert seen.connections == 0


@pytest.mark.parametrize("stream_it", [False, True])
async def test_a_refusal_is_billed_and_no_answer(side: Side, stream_it: bool) -> None:
    words: dict[str, object] = {"reason": "refusal", "text": ""}
    if side is OPENAI:
        words = {"refusal": "I cannot help with that.", "text": None}
    pieces = [JSON_HEAD, whole(side, **words)]
    on_delta = Pieces() if stream_it else None
    with pytest.raises(CallFailed) as caught:
        await call(side, pieces, on_delta)
    assert caught.value.failure.code == "content_refused"
    assert caught.value.usage is not None
    assert caught.value.usage.output_tokens > 0


async def test_a_filtered_answer_is_refused_even_halfway() -> None:
    chunks = (openai_chunk(content="I w"), openai_chunk(finish_reason="content_filter"))
    assert await code_of(OPENAI, [head(), stream(chunks)], Pieces()) == "content_refused"
    filtered = [JSON_HEAD, whole(OPENAI, reason="content_filter")]
    assert await code_of(OPENAI, filtered) == "content_refused"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, "provider_overloaded"),
        ({"type": "rate_limit_error", "message": "slow"}, "provider_rate_limited"),
        ({"type": "api_error", "message": "oops"}, "provider_unavailable"),
        ({"type": "server_error", "code": None, "message": "x"}, "provider_unavailable"),
        ({"code": 502, "message": "upstream"}, "provider_unavailable"),
        ({"code": 429, "message": "upstream"}, "provider_rate_limited"),
        ({"type": "invalid_request_error", "message": "bad"}, "provider_rejected"),
        ({"type": "new", "message": "maximum context length is 8"}, "context_too_long"),
    ],
)
async def test_errors_inside_an_answer_are_told_by_their_words(
    side: Side, said: dict[str, object], code: str
) -> None:
    error = {"type": "error", "error": said}
    body = stream([EVENTS[side.name][0], error], done=False)
    assert await code_of(side, [head(), body], Pieces()) == code
    assert await code_of(side, [JSON_HEAD, json.dumps(error).encode()]) == code


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (
            400,
            '{"error": {"message": "Your credit balance is too low"}}',
            "provider_quota",
        ),
        (400, '{"error": {"message": "prompt is too long: 9 > 8"}}', "context_too_long"),
        (400, '{"error": {"code": "content_filter"}}', "content_refused"),
        (402, "{}", "provider_quota"),
        (408, "", "provider_unavailable"),
        (409, "", "provider_unavailable"),
        (418, "", "provider_rejected"),
        (422, '{"detail": [{"msg": "no"}]}', "provider_rejected"),
        (425, "", "provider_unavailable"),
        (
            429,
            '{"error": {"type": "rate_limit_error", "details":'
            ' {"error_code": "enforced_spend_limit_reached"}}}',
            "provider_quota",
        ),
        (501, "", "provider_rejected"),
        (503, '{"error": {"code": "slow_down"}}', "provider_overloaded"),
        (520, "<html>", "provider_unavailable"),
        (529, "not json", "provider_overloaded"),
    ],
)
async def test_error_bodies_refine_the_status(
    side: Side, status: int, body: str, code: str
) -> None:
    refused = [head(f"{status} Whatever", kind="application/json"), body.encode()]
    with pytest.raises(CallFailed) as caught:
        await call(side, refused)
    assert caught.value.failure.code == code
    assert caught.value.failure.status == status


async def test_a_rejection_tells_what_to_mend_but_not_the_prompt(side: Side) -> None:
    async def message(sentence: str) -> str:
        body = json.dumps({"error": {"message": sentence}}).encode()
        with pytest.raises(CallFailed) as caught:
            await call(side, [head("400 Bad Request", kind="application/json"), body])
        return caught.value.failure.message

    assert "max_tokens is too large" in await message("max_tokens is too large:\n9999")
    assert "What now?" not in await message("invalid value: 'What now?'")
    assert KEY not in await message(f"with the key {KEY} this is not possible")
    assert "sk-proj" not in await message("Bad key sk-proj-abcdefgh1234567 given")
    assert len(await message("x" * 5_000)) < 300


@pytest.mark.parametrize("stream_it", [False, True])
async def test_ids_come_from_either_header(stream_it: bool) -> None:
    for side, header in ((OPENAI, "x-request-id"), (ANTHROPIC, "request-id")):
        answer = [
            head(
                "200 OK",
                f"{header}: req_8f",
                "Connection: close",
                kind="application/json",
            ),
            whole(side),
        ]
        got = await call(side, answer, Pieces() if stream_it else None)
        assert got.request_id == "req_8f"


async def test_what_json_cannot_hold_is_rejected_before_it_is_sent(side: Side) -> None:
    provider = side.open("http://127.0.0.1:9")
    with pytest.raises(CallFailed) as caught:
        await provider.call(side.request("lone \ud800"), timeout_s=5, headers={})
    await provider.close()
    assert caught.value.failure.code == "provider_rejected"


def test_both_wires_are_tested() -> None:
    assert set(SIDES) == {"openai", "anthropic"}
