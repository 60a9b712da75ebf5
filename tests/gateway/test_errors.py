from __future__ import annotations

import json
import logging
from typing import Any
from uuid import UUID

import pytest

from gateway.errors import MEDIA_TYPE, PROBLEMS, Problem, respond
from gateway.routes import jobs
from llmgine_workers.engine.submit import Submitted
from llmgine_workers.errors import Refusal
from llmgine_workers.ledger import views
from llmgine_workers.ledger.connection import LedgerDown
from tests.gateway.conftest import StandIn

# Interface section 5, word for word; `internal` is a defect of ours, and the headers
# are decision 13; `not_finished` and `unsupported_parameter` are of the front in OpenAI's
# format.
TABLE = {
    400: "invalid_json duplicate_key too_deep invalid_number invalid_unicode "
    "invalid_idempotency_key invalid_cursor",
    401: "unauthenticated",
    402: "budget_exhausted",
    403: "missing_scope",
    404: "not_found",
    405: "method_not_allowed",
    409: "already_finished already_resolved",
    413: "body_too_large batch_too_large",
    415: "unsupported_media_type",
    431: "headers_too_large",
    429: "too_many_requests tenant_queue_full",
    503: "ledger_unavailable",
    504: "not_finished",
    422: "unsupported_parameter unknown_field embeddings_not_supported "
    "invalid_input out_of_range nul_not_allowed invalid_chain "
    "unknown_chain unknown_tool unknown_provider unknown_model provider_not_enabled "
    "prompt_too_long exceeds_limit exceeds_budget idempotency_mismatch "
    "webhook_not_allowed",
    500: "internal",
}


def test_the_table_has_every_code_of_the_interface_with_its_status() -> None:
    assert {code: kind.status for code, kind in PROBLEMS.items()} == {
        code: status for status, codes in TABLE.items() for code in codes.split()
    }


@pytest.mark.parametrize("code", PROBLEMS)
def test_each_code_is_answered_in_the_one_shape(code: str) -> None:
    finding = {"pointer": "/inputs/n", "code": "out_of_range", "detail": "x", "limit": 20}
    answer = respond(Problem(code, "a sentence", [finding]), "0193")
    assert json.loads(bytes(answer.body)) == {
        "type": f"urn:llmgine:problem:{code}",
        "title": PROBLEMS[code].title,
        "status": PROBLEMS[code].status,
        "code": code,
        "detail": "a sentence",
        "request_id": "0193",
        "errors": [finding],
    }
    assert answer.status_code == PROBLEMS[code].status
    assert answer.headers["content-type"] == MEDIA_TYPE
    wants_retry = answer.status_code in (429, 503)
    assert ("retry-after" in answer.headers) == wants_retry


def test_a_problem_can_be_written_whatever_the_request_had_in_it() -> None:
    finding = {"pointer": "/\ud800", "code": "invalid_input", "detail": "\0" * 9000}
    answer = respond(Problem("invalid_input", "x" * 9000, [finding] * 500), "0193")
    told = json.loads(bytes(answer.body))
    assert len(told["errors"]) == 100
    assert len(answer.body) < 1_000_000


async def refusal_of(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> Any:
    async def submit(*_: Any) -> None:
        raise error

    monkeypatch.setattr(jobs, "submit", submit)
    headers = standin.seat("submit").headers
    return await standin.client.post("/v1/jobs", json={"chain": "a"}, headers=headers)


@pytest.mark.parametrize(
    "code",
    ["unknown_chain", "invalid_chain", "unknown_tool", "unknown_provider",
     "unknown_model", "provider_not_enabled", "prompt_too_long", "exceeds_limit",
     "exceeds_budget", "idempotency_mismatch", "tenant_queue_full", "budget_exhausted"],
)  # fmt: skip
async def test_what_the_engine_refuses_keeps_its_code_and_findings(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    finding = {"pointer": "/steps/0", "code": code, "detail": "why"}
    answer = await refusal_of(standin, monkeypatch, Refusal(code, "a reason", [finding]))
    told = answer.json()
    assert answer.status_code == PROBLEMS[code].status
    assert (told["code"], told["detail"]) == (code, "a reason")
    assert told["errors"] == [finding]


async def test_a_refusal_with_a_foreign_code_is_invalid_input(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await refusal_of(standin, monkeypatch, Refusal("invalid_type", "no"))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_without_the_ledger_a_submit_is_503_with_retry_after(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await refusal_of(standin, monkeypatch, LedgerDown("no"))
    assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
    assert int(answer.headers["retry-after"]) > 0


async def test_a_job_that_is_kept_but_cannot_be_shown_is_named_in_the_503(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Submitted(UUID("0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11"))

    async def submit(*_: Any) -> Submitted:
        return made

    async def job(*_: Any) -> None:
        raise LedgerDown("no")

    monkeypatch.setattr(jobs, "submit", submit)
    monkeypatch.setattr(views, "job", job)
    headers = standin.seat("submit").headers
    answer = await standin.client.post("/v1/jobs", json={"chain": "a"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
    assert answer.headers["location"] == f"/v1/jobs/{made.job}"
    assert str(made.job) in answer.json()["detail"]


async def test_a_defect_of_ours_is_a_500_without_a_trace_of_it(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = await refusal_of(standin, monkeypatch, ZeroDivisionError("secret"))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.json()["request_id"] in caplog.text


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nothing", "/v1/jobs/", "/docs", "/%00"]
)
async def test_an_unknown_path_is_a_404_problem(standin: StandIn, path: str) -> None:
    answer = await standin.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json()["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/jobs", {"GET", "POST"}),
        ("PUT", "/v1/jobs/0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11", {"GET"}),
        ("POST", "/healthz", {"GET"}),
        ("TRACE", "/v1/chains", {"GET"}),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    standin: StandIn, method: str, path: str, allowed: set[str]
) -> None:
    answer = await standin.client.request(method, path)
    assert answer.status_code == 405
    assert answer.json()["code"] == "method_not_allowed"
    assert set(answer.headers["allow"].split(", ")) == allowed


async def test_every_answer_names_its_request(standin: StandIn) -> None:
    good = await standin.client.get("/healthz")
    bad = await standin.client.get("/nothing")
    assert UUID(good.headers["x-request-id"]).version == 7
    assert bad.json()["request_id"] == bad.headers["x-request-id"]
    assert bad.headers["x-request-id"] != good.headers["x-request-id"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"wait": "-1"}, "out_of_range"),
        ({"wait": "61"}, "out_of_range"),
        ({"wait": "nan"}, "out_of_range"),
        ({"wait": "soon"}, "invalid_input"),
    ],
)
async def test_a_query_out_of_its_range_is_named(
    standin: StandIn, query: dict[str, str], code: str
) -> None:
    headers = standin.seat("submit").headers
    answer = await standin.client.post(
        "/v1/jobs", params=query, json={"chain": "a"}, headers=headers
    )
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.json()["errors"][0]["pointer"] == "/query/wait"


@pytest.mark.parametrize(
    "query",
    [{"limit": "0"}, {"limit": "201"}, {"limit": "1000000"}, {"state": "dead"},
     {"created_after": "yesterday"}, {"created_after": "2026-11-20T12:00:00"}],
)  # fmt: skip
async def test_a_list_asked_for_wrongly_is_422(
    standin: StandIn, query: dict[str, str]
) -> None:
    headers = standin.seat("read").headers
    answer = await standin.client.get("/v1/jobs", params=query, headers=headers)
    assert answer.status_code == 422
    (name,) = query
    assert answer.json()["errors"][0]["pointer"] == f"/query/{name}"


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [("stat=failed", "unknown_field", "did you mean state?"),
     ("offset=-1", "unknown_field", "not a filter"),
     ("metadata=x", "unknown_field", "not a filter"),
     ("state=failed&state=queued", "invalid_input", "twice"),
     ("metadata.a=1&metadata.a=2", "invalid_input", "twice")],
)  # fmt: skip
async def test_a_filter_that_is_misspelled_or_doubled_shows_nothing(
    standin: StandIn, query: str, code: str, words: str
) -> None:
    headers = standin.seat("read").headers
    answer = await standin.client.get(f"/v1/jobs?{query}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    (found,) = answer.json()["errors"]
    name = query.partition("=")[0]
    assert found["pointer"] == f"/query/{name}"
    assert words in found["detail"]


async def test_a_nul_in_a_filter_is_refused_before_the_ledger_sees_it(
    standin: StandIn,
) -> None:
    headers = standin.seat("read").headers
    for query in ("chain=%00", "metadata.k=%00", "metadata.%00=v"):
        answer = await standin.client.get(f"/v1/jobs?{query}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "nul_not_allowed")


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "ümlaut"])
async def test_an_idempotency_key_is_printable_ascii(standin: StandIn, key: str) -> None:
    (name, value), *_ = standin.seat("submit").headers.items()
    headers = [(name.encode(), value.encode()), (b"Idempotency-Key", key.encode())]
    answer = await standin.client.post("/v1/jobs", json={"chain": "a"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


async def test_two_idempotency_keys_are_none(standin: StandIn) -> None:
    seat = standin.seat("submit")
    headers = [*seat.headers.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await standin.client.post("/v1/jobs", json={"chain": "a"}, headers=headers)
    assert answer.json()["code"] == "invalid_idempotency_key"


@pytest.mark.parametrize(
    "job", ["1", "..", "%00", "x" * 30_000, "{0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11}",
            "0193c1f27d1e7c3a9b1e5f0c2a8e4d11"]
)  # fmt: skip
async def test_what_is_no_id_is_not_found(standin: StandIn, job: str) -> None:
    headers = standin.seat("read").headers
    for path in ("", "/steps", "/steps/draft", "/events"):
        answer = await standin.client.get(f"/v1/jobs/{job}{path}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "cursor"),
    [("/v1/jobs", "17"), ("/v1/jobs", "'; drop"),
     ("/v1/jobs/0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11/steps", "a b"),
     ("/v1/jobs/0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11/steps", "%00")],
)  # fmt: skip
async def test_a_cursor_that_is_not_ours_is_invalid(
    standin: StandIn, path: str, cursor: str
) -> None:
    headers = standin.seat("read").headers
    answer = await standin.client.get(path, params={"cursor": cursor}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("last", ["-1", "seven", "99999999999999999999"])
async def test_a_number_no_event_can_have_is_refused(standin: StandIn, last: str) -> None:
    path = "/v1/jobs/0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11/events"
    headers = standin.seat("read").headers
    by_query = await standin.client.get(path, params={"after": last}, headers=headers)
    by_header = await standin.client.get(path, headers={**headers, "Last-Event-ID": last})
    assert by_query.status_code == by_header.status_code == 422
    assert by_query.json()["errors"][0]["pointer"] == "/query/after"
    assert by_header.json()["errors"][0]["pointer"] == "/header/last-event-id"
