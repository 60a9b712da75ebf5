from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import PROBLEMS, Problem
from gateway.json_body import MAX_DEPTH, MAX_VALUES, decode
from tests.gateway.conftest import MAX_BODY, StandIn


def refused(body: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        decode(body)
    return caught.value


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", "invalid_json", "line 1, column 1"),
        (b'{"a": 1,}', "invalid_json", "line 1, column"),
        (b'{"a":\n 1} {"b": 2}', "invalid_json", "line 2, column 5"),
        (b"{'a': 1}", "invalid_json", "line 1, column 2"),
        (b'\xef\xbb\xbf{"a": 1}', "invalid_json", "byte order mark"),
        (b'{"a": "\n"}', "invalid_json", "control character"),
        (b'{"model": 1, "model": 2}', "duplicate_key", "model"),
        (b'{"a": [{"x": {}, "y": 1, "x": 3}]}', "duplicate_key", "x"),
        (nested(MAX_DEPTH + 1), "too_deep", f"at most {MAX_DEPTH}"),
        (nested(10_000), "too_deep", f"at most {MAX_DEPTH}"),
        (b'{"a": NaN}', "invalid_number", "NaN"),
        (b'{"a": -Infinity}', "invalid_number", "Infinity"),
        (b'{"a": 1e999}', "invalid_number", "infinity"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid_number", "64 bits"),
        (b'{"a": 18446744073709551616}', "invalid_number", "64 bits"),
        (b'{"a": "\\ud800"}', "invalid_unicode", "surrogate"),
        (b'{"\\udfff": {"x": "\\udfff"}}', "invalid_unicode", "surrogate"),
        (b'{"a": "\xff"}', "invalid_unicode", "byte 7"),
        (b'{"a": "x\\u0000y"}', "nul_not_allowed", "U+0000"),
        (b'{"a": {"\\u0000": 1}}', "nul_not_allowed", "U+0000"),
    ],
)
def test_what_is_not_clean_json_is_refused_by_name(
    body: bytes, code: str, words: str
) -> None:
    problem = refused(body)
    assert problem.code == code
    assert words in problem.detail
    expected = 422 if code == "nul_not_allowed" else 400
    assert PROBLEMS[problem.code].status == expected


def test_doubled_keys_are_found_where_they_are() -> None:
    problem = refused(
        b'{"a": [1, {"x~/y": 1, "x~/y": 2}], "b": {"c": {"d": 1, "d": {}}}}'
    )
    assert [one["pointer"] for one in problem.findings] == ["/a/1/x~0~1y", "/b/c/d"]
    assert problem.detail == "a.1.x~0~1y the key is there twice (and 1 more)"
    many = b"[" + b",".join([b'{"a": 1, "a": 2}'] * 500) + b"]"
    assert len(refused(many).findings) == 100


def test_commas_and_brackets_of_texts_are_not_values() -> None:
    text = ",[{" * MAX_VALUES + '\\"'
    assert decode(json.dumps([text]).encode()) == [text]


@pytest.mark.parametrize(
    "body", [b"[" + b"1," * MAX_VALUES + b"1]",
             b"[" + b"[[]]," * (MAX_VALUES // 2) + b"1]",
             b'["' + b',\\"' * (2 * MAX_VALUES) + b'", ' + b"1," * MAX_VALUES + b"1]"]
)  # fmt: skip
def test_more_values_than_memory_is_given_for_are_not_decoded(body: bytes) -> None:
    assert refused(body).code == "body_too_large"


@pytest.mark.parametrize("unclosed", [b'"', b'"\\', b'"' + b'\\"' * 500_000])
def test_looking_for_values_takes_no_longer_for_what_is_no_json(unclosed: bytes) -> None:
    begun = time.perf_counter()
    refused(b"[" * MAX_VALUES + b"," + unclosed + b",[" * 500_000)
    assert time.perf_counter() - begun < 20


def test_depth_up_to_the_limit_is_fine() -> None:
    assert decode(nested(MAX_DEPTH)) == json.loads(nested(MAX_DEPTH))


def test_a_body_that_is_all_depth_is_refused_at_once() -> None:
    begun = time.perf_counter()
    refused(nested(MAX_BODY // 2))
    assert time.perf_counter() - begun < 5


def test_everything_that_cannot_be_stored_is_found_at_once() -> None:
    problem = refused(b'{"a": "\\u0000", "b": ["\\ud800", 1e999], "c": 1}')
    found = {(one["pointer"], one["code"]) for one in problem.findings}
    assert found == {
        ("/a", "nul_not_allowed"),
        ("/b/0", "invalid_unicode"),
        ("/b/1", "invalid_number"),
    }
    assert PROBLEMS[problem.code].status == 400


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "ü😀"]}, [], "x", 0, None])
def test_clean_json_is_read_as_it_is(value: Any) -> None:
    assert decode(json.dumps(value).encode()) == value


async def post(standin: StandIn, **request: Any) -> Any:
    headers = {**standin.seat("submit").headers, **request.pop("headers", {})}
    return await standin.client.post("/v1/jobs", headers=headers, **request)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_only_json_is_taken(standin: StandIn, headers: dict[str, str]) -> None:
    answer = await post(standin, content=b"{}", headers=headers)
    assert answer.status_code == 415
    assert answer.json()["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    "kind", ["application/json", 'Application/JSON; charset="UTF-8"']
)
async def test_json_is_taken_however_it_is_spelled(standin: StandIn, kind: str) -> None:
    answer = await post(standin, content=b"{}", headers={"Content-Type": kind})
    assert answer.json()["code"] == "invalid_input"


async def test_a_body_over_the_limit_is_refused_by_its_announced_length(
    standin: StandIn,
) -> None:
    answer = await post(
        standin,
        content=b" " * (MAX_BODY + 1),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"
    assert str(MAX_BODY) in answer.json()["detail"]
    assert answer.headers["connection"] == "close"


async def test_a_body_over_the_limit_is_refused_while_it_comes_in_chunks(
    standin: StandIn,
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 1024
            yield b" " * 1024

    answer = await post(
        standin, content=endless(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert sent <= MAX_BODY + 2048


async def test_a_body_of_exactly_the_limit_is_read(standin: StandIn) -> None:
    answer = await post(
        standin,
        content=b"{}".ljust(MAX_BODY),
        headers={"Content-Type": "application/json"},
    )
    assert answer.json()["code"] == "invalid_input"
