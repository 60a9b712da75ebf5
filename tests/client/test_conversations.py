from __future__ import annotations

import json
from itertools import repeat
from typing import Any

import httpx2
import pytest

from llmgine_workers.client import (
    BadAnswer,
    Job,
    JobFailed,
    Refused,
    Unauthenticated,
    Unavailable,
    patience,
)
from llmgine_workers.client import protocol as protocol_module
from llmgine_workers.client.protocol import Talk
from tests.client.talking import (
    FAILED,
    JOB,
    RUNNING,
    Said,
    answer,
    held,
    lost,
    problem,
    protocol,
)

WORK = {"chain": "summarize", "inputs": {"text": "é"}}


class Clock:
    """Stands still unless it is told to go on."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def try_in_vain(self, talk: Talk[Job]) -> None:
        next(talk)
        for _ in range(1000):
            self.now_s += talk.throw(lost()).pause_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "monotonic", clock)
    monkeypatch.setattr(protocol_module, "monotonic", clock)
    return clock


PASSING: list[Said] = [
    lost(),
    httpx2.ConnectError("refused"),
    httpx2.ReadTimeout("silence"),
    httpx2.RemoteProtocolError("cut off"),
    problem(502, "bad_gateway"),
    problem(503, "ledger_unavailable", retry_after="2"),
    httpx2.Response(504, text="<html>"),
    problem(429, "too_many_requests", retry_after="1"),
]


def test_what_may_pass_is_tried_again_with_the_same_key_and_bytes() -> None:
    job, asked = held(protocol().submit(WORK, None), [*PASSING, answer(JOB, 202)])
    assert job.id == JOB["id"]
    assert len(asked) == len(PASSING) + 1
    (key,) = {call.headers["Idempotency-Key"] for call in asked}
    (body,) = {call.content for call in asked}
    assert len(key) == 36
    assert json.loads(body or b"") == WORK


def test_every_post_of_its_own_has_a_key_of_its_own() -> None:
    talks = [protocol().submit(WORK, None), protocol().cancel("x")]
    talks += [protocol().run(WORK, None)]
    first = [next(talk) for talk in (*talks, protocol().submit_many([], None))]
    assert {call.method for call in first} == {"POST"}
    assert len({call.headers["Idempotency-Key"] for call in first}) == 4


def test_a_key_of_the_callers_own_is_the_key() -> None:
    call = next(protocol().submit(WORK, "order A-17"))
    assert call.headers["Idempotency-Key"] == "order A-17"


@pytest.mark.parametrize("key", ["", "x" * 256, "ö", "a\nb"])
def test_a_key_that_the_gateway_would_refuse_is_never_sent(key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        next(protocol().submit(WORK, key))


def test_pauses_grow_and_never_undercut_what_the_gateway_asks_for() -> None:
    said: list[Said] = [
        *repeat(lost(), 4),
        problem(503, "x", retry_after="3"),
        answer(JOB),
    ]
    _, asked = held(protocol().job("x"), said)
    first, *pauses = [call.pause_s for call in asked]
    assert first == 0
    assert all(
        low / 2 <= pause <= low
        for pause, low in zip(pauses[:4], (0.1, 0.2, 0.4, 0.8), strict=True)
    )
    assert 3.8 <= pauses[4] <= 4.6


def test_a_gateway_that_stays_away_is_given_up_in_time(clock: Clock) -> None:
    with pytest.raises(Unavailable, match=r"no answer from http://gateway:8080") as told:
        clock.try_in_vain(protocol(retry_s=30).job("x"))
    assert 20 < clock.now_s - 100 <= 30
    assert told.value.status is None
    assert isinstance(told.value.__cause__, httpx2.ReadError)


def test_a_gateway_that_asks_for_more_patience_than_there_is_gets_none() -> None:
    said = [problem(429, "tenant_queue_full", retry_after="31")]
    with pytest.raises(Unavailable) as told:
        held(protocol(retry_s=30).job("x"), said)
    assert (told.value.status, told.value.code) == (429, "tenant_queue_full")
    assert (told.value.retry_after_s, told.value.request_id) == (31, "0193")


def test_a_retry_after_may_be_a_date() -> None:
    said = [problem(503, "x", retry_after="Fri, 31 Dec 2100 23:59:59 GMT")]
    with pytest.raises(Unavailable) as told:
        held(protocol().job("x"), said)
    assert (told.value.retry_after_s or 0) > 1e9
    said = [problem(503, "x", retry_after="Sat, 01 Jan 2000 00:00:00 GMT"), answer(JOB)]
    _, asked = held(protocol().job("x"), said)
    assert asked[1].pause_s <= 0.1


@pytest.mark.parametrize(
    "said",
    [
        problem(429, "too_many_requests"),
        problem(429, "too_many_requests", retry_after="soon"),
        problem(500, "internal"),
    ],
)
def test_what_says_nothing_about_later_is_not_tried_again(said: httpx2.Response) -> None:
    with pytest.raises(Unavailable):
        held(protocol().job("x"), [said])


def test_no_patience_means_one_try() -> None:
    with pytest.raises(Unavailable):
        held(protocol(retry_s=0).job("x"), [lost()])


def test_a_refusal_tells_everything_that_is_wrong() -> None:
    findings = [
        {"pointer": "/inputs/n", "code": "out_of_range", "detail": "at most 20",
         "limit": 20},
        {"pointer": "/optoins", "code": "unknown_field", "detail": "did you mean",
         "suggestion": "options"},
    ]  # fmt: skip
    body = {"code": "out_of_range", "detail": "inputs.n at most 20 (and 1 more)",
            "request_id": "0193", "errors": findings}  # fmt: skip
    with pytest.raises(Refused) as told:
        held(protocol().submit(WORK, None), [answer(body, 422)])
    refused = told.value
    assert (refused.status, refused.code) == (422, "out_of_range")
    assert refused.request_id == "0193"
    assert [found.document() for found in refused.findings] == findings
    for text in ("422 out_of_range", "/inputs/n at most 20", "/optoins did you mean"):
        assert text in str(refused)


def test_a_key_that_is_not_known_has_its_own_exception() -> None:
    with pytest.raises(Unauthenticated) as told:
        held(protocol().job("x"), [problem(401, "unauthenticated")])
    assert isinstance(told.value, Refused)


@pytest.mark.parametrize(
    "said",
    [
        httpx2.Response(200, text="<html>welcome</html>"),
        answer({"id": "x"}),
        answer([]),
        httpx2.Response(301, headers={"location": "https://elsewhere/"}),
    ],
)
def test_what_no_gateway_says_is_no_answer(said: httpx2.Response) -> None:
    with pytest.raises(BadAnswer):
        held(protocol().job("x"), [said])


def test_a_refusal_in_a_proxys_own_words_is_still_a_refusal() -> None:
    with pytest.raises(Refused, match="403 http_403: Forbidden"):
        held(protocol().job("x"), [httpx2.Response(403, text="go away")])


def test_waiting_asks_again_until_the_job_has_ended() -> None:
    said: list[Said] = [answer(RUNNING), lost(), answer(RUNNING), answer(JOB)]
    job, asked = held(protocol().wait("x", None), said)
    assert job.output == "Prices rose."
    assert {call.params["wait"] for call in asked} == {"30.000"}
    assert {call.read_s for call in asked} == {60.0}
    assert all(call.pause_s > 0 for call in asked[1:])  # answered at once: no hurry


def test_a_wait_that_was_held_back_goes_on_at_once(clock: Clock) -> None:
    talk = protocol().wait("x", None)
    next(talk)
    clock.now_s += 30
    assert talk.send(answer(RUNNING)).pause_s == 0


def test_a_wait_ends_with_its_time(clock: Clock) -> None:
    talk = protocol().wait("x", 40)
    asked = [next(talk).params["wait"]]
    clock.now_s += 30
    asked.append(talk.send(answer(RUNNING)).params["wait"])
    assert asked == ["30.000", "10.000"]
    clock.now_s += 10
    with pytest.raises(TimeoutError, match="is running after 40 s"):
        talk.send(answer(RUNNING))


def test_a_wait_of_no_time_looks_once(clock: Clock) -> None:
    with pytest.raises(TimeoutError):
        held(protocol().wait("x", 0), [answer(RUNNING)])


def test_a_wait_bears_with_the_gateway_no_longer_than_its_time(clock: Clock) -> None:
    with pytest.raises(Unavailable):
        clock.try_in_vain(protocol(retry_s=30).wait("x", 2))
    assert clock.now_s <= 102


def test_a_failed_job_is_raised_with_its_error() -> None:
    with pytest.raises(JobFailed, match="failed at draft: provider_overloaded") as told:
        held(protocol().wait("x", None), [answer(FAILED)])
    assert told.value.error is not None
    assert told.value.error.code == "provider_overloaded"
    assert told.value.error.status == 529
    assert told.value.job.state == "failed"


def test_a_cancelled_job_is_raised_without_one() -> None:
    with pytest.raises(JobFailed, match="was cancelled") as told:
        held(protocol().wait("x", None), [answer({**JOB, "state": "cancelled"})])
    assert told.value.error is None


def test_a_quick_run_is_one_request() -> None:
    job, asked = held(protocol().run(WORK, None), [answer(JOB)])
    assert job.ended
    (call,) = asked
    assert (call.method, call.params) == ("POST", {"wait": "30.000"})


def test_a_slow_run_goes_on_waiting() -> None:
    job, asked = held(protocol().run(WORK, None), [answer(RUNNING, 202), answer(JOB)])
    assert job.ended
    assert [call.method for call in asked] == ["POST", "GET"]
    with pytest.raises(JobFailed):
        held(protocol().run(WORK, None), [answer(FAILED)])


def test_a_cancel_whose_answer_was_lost_is_no_refusal() -> None:
    said: list[Said] = [lost(), problem(409, "already_finished")]
    job, asked = held(
        protocol().cancel("x"), [*said, answer({**JOB, "state": "cancelled"})]
    )
    assert job.state == "cancelled"
    assert [call.path for call in asked] == [
        "/v1/jobs/x/cancel", "/v1/jobs/x/cancel", "/v1/jobs/x",
    ]  # fmt: skip
    with pytest.raises(Refused) as told:
        held(protocol().cancel("x"), [*said, answer(JOB)])
    assert told.value.code == "already_finished"


def test_a_list_is_read_in_pages_no_larger_than_what_is_wanted() -> None:
    listing = protocol().jobs({"state": "failed", "metadata": {"order": "A"}}, 250)
    page = {"data": [JOB] * 200, "next_cursor": "next"}
    first, (one,) = held(listing.next_page(), [answer(page)])
    assert (len(first), listing.done) == (200, False)
    assert one.params == {"state": "failed", "metadata.order": "A", "limit": "200"}
    rest, (two,) = held(
        listing.next_page(), [answer({"data": [JOB] * 50, "next_cursor": "more"})]
    )
    assert two.params == {**one.params, "limit": "50", "cursor": "next"}
    assert (len(rest), listing.done) == (50, True)


def test_a_list_ends_with_its_last_page() -> None:
    listing = protocol().jobs({}, None)
    held(listing.next_page(), [answer({"data": [], "next_cursor": None})])
    assert listing.done
    assert protocol().jobs({}, 0).done


@pytest.mark.parametrize("wanted", ["a/b", "a?b", "..%2f"])
def test_an_id_cannot_leave_its_place_in_the_address(wanted: str) -> None:
    call = next(protocol().step(wanted, "notes.3.page"))
    assert call.path.count("/") == 5
    assert "?" not in call.path


def test_several_jobs_are_one_request() -> None:
    batch: dict[str, Any] = {
        "id": "b", "total": 2, "counts": {"queued": 2}, "cost_usd": 0.0,
        "created_at": "2026-11-20T12:00:00.000Z",
    }  # fmt: skip
    jobs = [{"chain": "a", "inputs": {"n": 1}}, {"tool": "t", "arguments": {}}]
    made, (call,) = held(
        protocol().submit_many(jobs, None),  # type: ignore[arg-type]
        [answer(batch, 202)],
    )
    assert call.path == "/v1/batches"
    assert json.loads(call.content or b"") == {"jobs": jobs}
    assert made.document() == batch
