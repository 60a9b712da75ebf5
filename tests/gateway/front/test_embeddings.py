"""The official OpenAI clients ask for vectors: every call is a durable job."""

from __future__ import annotations

import math
from array import array
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import openai
import pytest

from gateway.front import shapes
from tests.gateway.conftest import Seat
from tests.gateway.front.conftest import Asking, Front

pytestmark = pytest.mark.integration

MODEL = "openai/text-embedding-3-small"
TEXTS = ["wheat in autumn", "autumn wheat", "a ship at sea"]


async def made(asking: Asking, **body: Any) -> Any:
    whole = {"model": MODEL, "input": TEXTS, **body}
    return await asking.call(lambda c: c.embeddings.create(**whole))


async def test_an_unmodified_client_gets_a_vector_for_each_text(theirs: Asking) -> None:
    answer = await made(theirs)
    one, like_it, other = (item.embedding for item in answer.data)
    assert math.dist(one, like_it) < math.dist(one, other)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.model == MODEL
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    shapes.EmbeddingList.model_validate_json(answer.model_dump_json(exclude_unset=True))


async def test_floats_and_base64_are_the_same_vectors(asking: Asking) -> None:
    floats = await made(asking, encoding_format="float", dimensions=64)
    texts = await made(asking, encoding_format="base64", dimensions=64)
    by_default = await made(asking, dimensions=64)
    for number, text, default in zip(
        floats.data, texts.data, by_default.data, strict=True
    ):
        assert len(number.embedding) == 64
        assert number.embedding == list(array("f", b64decode(text.embedding)))
        assert number.embedding == pytest.approx(default.embedding)


async def test_one_text_is_enough_and_braces_in_it_are_no_template(
    front: Front, seat: Seat, asking: Asking
) -> None:
    said = "{{ inputs.input.0 }} {{ '{{' | x }} }}"
    raw = await asking.call(
        lambda c: c.embeddings.with_raw_response.create(
            model=MODEL, input=said, user="me", extra_headers={"Llmgine-Timeout": "90s"}
        )
    )
    assert len(raw.parse().data) == 1
    job = f"/v1/jobs/{raw.headers['llmgine-job']}"
    assert raw.headers["link"] == f'<{job}>; rel="status"'
    reader = await front.live.seat("read", "payloads", tenant=seat.tenant)
    step = (await front.http.get(f"{job}/steps/embed", headers=reader.headers)).json()
    assert (step["kind"], step["state"]) == ("embed", "succeeded")
    assert step["request"]["input"] == [said]
    shown = (await front.http.get(job, headers=seat.headers)).json()
    assert shown["options"]["timeout_s"] == 90
    assert shown["cost_usd"] is not None
    assert shown["usage"]["calls"] == 1


async def test_the_same_key_gives_the_same_job(asking: Asking, mark: str) -> None:
    jobs = set()
    for _ in range(2):
        raw = await asking.call(
            lambda c: c.embeddings.with_raw_response.create(
                model=MODEL, input=mark, extra_headers={"Idempotency-Key": mark}
            )
        )
        jobs.add(raw.headers["llmgine-job"])
    assert len(jobs) == 1
    assert raw.headers["idempotent-replayed"] == "true"


REFUSED: list[tuple[Mapping[str, Any], int, str, str]] = [
    ({"input": []}, 400, "input", "out_of_range"),
    ({"input": ""}, 400, "input[0]", "out_of_range"),
    ({"input": ["a"] * 2049}, 400, "input", "out_of_range"),
    ({"input": [1, 2, 3]}, 400, "input", "unsupported_parameter"),
    ({"input": [[1], [2]]}, 400, "input", "unsupported_parameter"),
    ({"input": None}, 400, "input", "invalid_input"),
    ({"dimensions": 0}, 400, "dimensions", "out_of_range"),
    ({"dimensions": "x"}, 400, "dimensions", "invalid_input"),
    ({"encoding_format": "hex"}, 400, "encoding_format", "out_of_range"),
    ({"dimension": 3}, 400, "dimension", "unknown_field"),
    ({"model": "none/such"}, 404, "model", "unknown_provider"),
    ({"model": "anthropic/x"}, 404, "model", "embeddings_not_supported"),
    ({"input": ["a"] * 2000, "dimensions": 3072}, 400, "", "invalid_input"),
]


@pytest.mark.parametrize(("change", "status", "param", "code"), REFUSED)
async def test_what_cannot_be_honoured_is_named(
    front: Front,
    seat: Seat,
    change: Mapping[str, Any],
    status: int,
    param: str,
    code: str,
) -> None:
    body = {"model": MODEL, "input": TEXTS, **change}
    answer = await front.http.post("/v1/embeddings", json=body, headers=seat.headers)
    error = answer.json()["error"]
    assert answer.status_code == status, answer.text
    assert (error["param"] or "", error["code"]) == (param, code)


async def test_a_call_that_fails_is_their_exception_with_our_code(
    theirs: Asking,
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await made(theirs, dimensions=3073)
    assert caught.value.code == "provider_rejected"
    assert caught.value.response.headers["x-should-retry"] == "false"
