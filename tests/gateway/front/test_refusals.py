"""What cannot be honoured is refused in OpenAI's envelope, by name; failures are told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import openai
import pytest

from gateway.errors import PROBLEMS
from gateway.front import shapes
from gateway.front.envelope import FAILED, param_of, status_of
from gateway.front.parameters import LEFT_OUT, ONLY, ChatCompletionRequest, read
from llmgine_workers.errors import FOLLOWS
from tests.gateway.conftest import Seat, StandIn
from tests.gateway.front.conftest import MODEL, Asking, Front

TURN = {"role": "user", "content": "x"}
GOOD: dict[str, Any] = {"model": MODEL, "messages": [TURN]}

REFUSED: list[tuple[Mapping[str, Any], str, str]] = [
    ({"n": 2}, "n", "unsupported_parameter"),
    ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
    ({"logprobs": True}, "logprobs", "unsupported_parameter"),
    ({"temprature": 1}, "temprature", "unknown_field"),
    ({"temperature": 3}, "temperature", "out_of_range"),
    ({"temperature": "warm"}, "temperature", "invalid_input"),
    ({"max_tokens": 0}, "max_tokens", "out_of_range"),
    ({"messages": []}, "messages", "out_of_range"),
    ({"messages": [TURN] * 201}, "messages", "out_of_range"),
    ({"messages": [{**TURN, "role": "tool"}]}, "messages[0].role", "out_of_range"),
    ({"messages": [TURN, {**TURN, "name": "Bo"}]}, "messages[1].name", "unknown_field"),
    ({"model": ""}, "model", "out_of_range"),
    ({"model": None}, "model", "invalid_input"),
    ({"stop": ["a"] * 5}, "stop", "invalid_chain"),
    ({"seed": -1}, "seed", "out_of_range"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_input"),
    ({"stream_options": {"include_usage": True}}, "", "invalid_input"),
    ({"max_tokens": 5, "max_completion_tokens": 5}, "", "invalid_input"),
    ({"messages": [{**TURN, "role": "system"}]}, "", "invalid_input"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content",
        "unsupported_parameter",
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "objekt"}},
            }
        },
        "response_format.json_schema.schema.type",
        "invalid_chain",
    ),
]


@pytest.mark.integration
@pytest.mark.parametrize(("change", "param", "code"), REFUSED, ids=lambda v: str(v)[:40])
async def test_a_parameter_that_cannot_be_honoured_is_named(
    front: Front, seat: Seat, change: Mapping[str, Any], param: str, code: str
) -> None:
    answer = await front.http.post(
        "/v1/chat/completions", json={**GOOD, **change}, headers=seat.headers
    )
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"] or "", error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    shapes.OpenAIErrorResponse.model_validate(answer.json())


@pytest.mark.integration
@pytest.mark.parametrize("model", ["slow", "nowhere/x", "nobody", "groq/x"])
async def test_a_model_that_nobody_has_is_not_found(asking: Asking, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        await asking.chat(model=model)
    assert refused.value.param == "model"
    assert refused.value.code in ("unknown_model", "unknown_provider",
                                  "provider_not_enabled")  # fmt: skip


@pytest.mark.integration
async def test_an_option_that_no_model_takes_is_named(asking: Asking) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await asking.chat(model="anthropic/claude-haiku-4-5", seed=1)
    assert (refused.value.param, refused.value.code) == ("seed", "unsupported_parameter")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Llmgine-Priority", "soon"),
        ("Llmgine-Timeout", "10 parsecs"),
        ("Llmgine-Timeout", "25h"),
        ("Llmgine-Max-Cost-Usd", "much"),
        ("Llmgine-Max-Attempts", "0"),
    ],
)
async def test_a_header_that_says_nothing_sensible_is_named(
    asking: Asking, header: str, value: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await asking.chat(extra_headers={header: value})
    assert refused.value.param == header


@pytest.mark.integration
async def test_a_key_needs_both_scopes(front: Front) -> None:
    for scopes, missing in ((("read",), "submit"), (("submit",), "read")):
        seat = await front.seat(*scopes)
        answer = await front.http.post(
            "/v1/chat/completions", json=GOOD, headers=seat.headers
        )
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "missing_scope"
        assert missing in answer.json()["error"]["message"]


@pytest.mark.integration
async def test_a_failed_job_is_an_error_that_is_not_asked_again(
    front: Front, seat: Seat, asking: Asking
) -> None:
    with pytest.raises(openai.BadRequestError) as rejected:
        await asking.chat("[[sim:fault=400 times=9]]")
    assert rejected.value.code == "provider_rejected"
    with pytest.raises(openai.InternalServerError) as broken:
        await asking.chat(
            "[[sim:fault=500 times=9]]", extra_headers={"Llmgine-Max-Attempts": "1"}
        )
    assert (broken.value.status_code, broken.value.code) == (503, "provider_unavailable")
    listed = (await front.http.get("/v1/jobs", headers=seat.headers)).json()["data"]
    assert [job["state"] for job in listed] == ["failed", "failed"]
    assert listed[0]["id"] == broken.value.response.headers["llmgine-job"]


@pytest.mark.integration
async def test_a_job_that_fails_while_it_streams_is_an_error_in_the_stream(
    theirs: Asking,
) -> None:
    with pytest.raises(openai.APIError) as rejected:
        await theirs.chat("[[sim:fault=400 times=9]]", stream=True)
    assert rejected.value.code == "provider_rejected"


@pytest.mark.integration
async def test_an_answer_that_begins_anew_before_its_first_piece_is_whole(
    asking: Asking,
) -> None:
    prompt = "[[sim:fault=500 times=1]] [[sim:text=Whole.]]"
    chunks = await asking.chat(prompt, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Whole."


@pytest.mark.integration
async def test_a_cancelled_job_is_told(front: Front, seat: Seat, asking: Asking) -> None:
    async with front.pause:
        asked = asyncio.ensure_future(asking.chat("Never."))
        data: list[Any] = []
        while not data:
            listed = await front.http.get("/v1/jobs", headers=seat.headers)
            data = listed.json()["data"]
        at = f"/v1/jobs/{data[0]['id']}/cancel"
        await front.http.post(at, headers=seat.headers)
        with pytest.raises(openai.ConflictError) as cancelled:
            await asked
    assert cancelled.value.code == "cancelled"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/chat/completions", b"{", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b'{"a": 1, "a": 2}', 400, "duplicate_key"),
        ("POST", "/v1/chat/completions", b'"x"', 400, "invalid_input"),
        ("POST", "/v1/chat/completions", b"[" * 99999, 413, "body_too_large"),
        ("GET", "/v1/chat/completions", b"", 405, "method_not_allowed"),
        ("GET", "/v1/models/x/y/z", b"", 404, "not_found"),
    ],
)
async def test_every_refusal_has_the_envelope(
    standin: StandIn, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    standin.rt.settings = standin.rt.settings.model_copy(update={"models": {}})
    standin.rt.models = type("Models", (), {"enabled": frozenset()})
    headers = {
        **standin.seat("submit", "read").headers, "Content-Type": "application/json"
    }  # fmt: skip
    answer = await standin.client.request(method, path, content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


async def test_a_stranger_is_refused_in_the_envelope(standin: StandIn) -> None:
    answer = await standin.client.get("/v1/models")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthenticated"


def test_every_parameter_is_taken_left_out_or_refused() -> None:
    """Against the official client's own list: none is unheard of."""
    import inspect

    from openai.resources.chat import Completions

    known = set(inspect.signature(Completions.create).parameters)
    known -= {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    decided = {*ChatCompletionRequest.model_fields, *LEFT_OUT, *ONLY}
    assert known - decided <= {"moderation", "prompt_cache_options"}


def test_parameters_that_ask_for_nothing_are_taken() -> None:
    nothing = {name: values[0] for name, values in ONLY.items() if values}
    read({**GOOD, **nothing, **dict.fromkeys(LEFT_OUT, True)})
    read({**GOOD, **dict.fromkeys([*ONLY, *LEFT_OUT, "temperature", "stop"], None)})


def test_every_refusal_and_failure_has_a_status_of_theirs() -> None:
    assert all(status_of(code) != 422 for code in PROBLEMS)
    assert FAILED.keys() - FOLLOWS.keys() == {"cancelled"}


def test_a_place_in_the_job_is_a_place_in_the_request() -> None:
    assert param_of("/messages/0/content") == "messages[0].content"
    assert param_of("/inputs/messages/3") == "messages[3]"
    assert param_of("/chain/steps/0/llm/top_p") == "top_p"
    assert param_of("/chain") == "model"
    assert param_of("/header/llmgine_max_cost_usd") == "Llmgine-Max-Cost-Usd"
    assert param_of("") is None
