"""Dead letters and replays over HTTP: whose they are, and what may be asked of them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from llmgine_workers import clock
from llmgine_workers.engine import replays
from llmgine_workers.ledger import letters
from tests.gateway.conftest import Live, Seat
from tests.gateway.test_routes import body_of, code_of, get

pytestmark = pytest.mark.integration

LETTERS, REPLAYS = "/v1/dead-letters", "/v1/replays"


async def operator(live: Live, *more: str) -> Seat:
    return await live.seat("submit", "read", "operate", *more)


async def failed(live: Live, seat: Seat) -> UUID:
    job = await live.submitted(seat)
    await live.fail(job)
    return job


async def post(live: Live, path: str, seat: Seat, body: Any) -> Any:
    return await live.client.post(path, json=body, headers=seat.headers)


async def test_letters_are_listed_shown_and_grouped(live: Live) -> None:
    seat = await operator(live)
    jobs = [await failed(live, seat) for _ in range(3)]
    page = body_of(live, await get(live, LETTERS, seat, limit=2), "LetterPage")
    assert [one["job"] for one in page["data"]] == [str(jobs[2]), str(jobs[1])]
    rest = await get(live, LETTERS, seat, limit=2, cursor=page["next_cursor"])
    (last,) = body_of(live, rest, "LetterPage")["data"]
    assert last["job"] == str(jobs[0])
    none = await get(live, LETTERS, seat, code="too_large", since="2026-01-01T00:00:00Z")
    assert body_of(live, none, "LetterPage") == {"data": [], "next_cursor": None}
    one = body_of(live, await get(live, f"{LETTERS}/{jobs[0]}", seat), "WholeLetter")
    assert one["id"] == last["id"]
    assert one["request"] is None
    groups = body_of(live, await get(live, "/v1/dead-letter-groups", seat), "GroupPage")
    (group,) = groups["data"]
    assert (group["count"], group["sample"]) == (3, page["data"][0]["id"])


async def test_the_request_of_a_letter_needs_the_scope_payloads(live: Live) -> None:
    seat = await operator(live, "payloads")
    job = await failed(live, seat)
    one = body_of(live, await get(live, f"{LETTERS}/{job}", seat), "WholeLetter")
    assert one["request"]["messages"]


async def test_another_tenants_letters_are_there_for_admins_only(live: Live) -> None:
    owner, other = await operator(live), await operator(live)
    job = await failed(live, owner)
    assert code_of(live, await get(live, f"{LETTERS}/{job}", other), 404) == "not_found"
    asked = await get(live, LETTERS, other, tenant=owner.tenant)
    assert code_of(live, asked, 403) == "missing_scope"
    choice = {"ids": [str(job)]}
    for path in (f"{LETTERS}/discard", REPLAYS):
        assert code_of(live, await post(live, path, other, choice), 404) == "not_found"
    admin = await operator(live, "admin")
    seen = await get(live, LETTERS, admin, tenant=owner.tenant)
    assert len(body_of(live, seen, "LetterPage")["data"]) == 1
    raw = await letters.write_unprocessable(live.rt.ledger, b"<script>", "?", b"d")
    assert raw is not None
    shown = body_of(live, await get(live, f"{LETTERS}/{raw}", admin), "WholeLetter")
    assert shown["raw"] == "<script>"
    assert code_of(live, await get(live, f"{LETTERS}/{raw}", owner), 404) == "not_found"


async def test_letters_are_ignored_and_discarded_once(live: Live) -> None:
    seat = await operator(live)
    await failed(live, seat)
    choice: dict[str, Any] = {"filter": {"code": "tool_failed"}}
    done = await post(live, f"{LETTERS}/ignore", seat, choice)
    assert body_of(live, done, "Closed") == {"closed": 1, "state": "ignored"}
    page = await get(live, LETTERS, seat)
    assert body_of(live, page, "LetterPage")["data"] == []
    (letter,) = body_of(
        live, await get(live, LETTERS, seat, state="ignored"), "LetterPage"
    )["data"]
    choice = {"ids": [letter["id"]]}
    done = await post(live, f"{LETTERS}/discard", seat, choice)
    assert body_of(live, done, "Closed") == {"closed": 1, "state": "resolved"}
    again = await post(live, f"{LETTERS}/discard", seat, choice)
    assert code_of(live, again, 409) == "already_resolved"
    assert code_of(live, await post(live, REPLAYS, seat, choice), 409) == (
        "already_resolved"
    )


async def test_a_replay_is_asked_for_watched_and_aborted(live: Live) -> None:
    seat = await operator(live)
    jobs = [await failed(live, seat) for _ in range(2)]
    body = {"filter": {"all": True}, "rate": 1000, "canary": 1}
    dry = await post(live, REPLAYS, seat, {**body, "dry_run": True})
    would = body_of(live, dry, "Replay")
    assert (would["id"], would["state"], would["total"]) == (None, "dry_run", 2)
    begun = await post(live, REPLAYS, seat, body)
    made = body_of(live, begun, "Replay", 202)
    assert (made["state"], made["total"], made["stop_if_fail"]) == ("running", 2, 0.2)
    path = begun.headers["location"]
    while (shown := body_of(live, await get(live, path, seat), "Replay"))["pending"] > 1:
        await replays.advance(live.rt)
    assert shown["replayed"] == 1
    job = body_of(live, await get(live, f"/v1/jobs/{jobs[0]}", seat), "Job")
    assert (job["replays"], job["dead_letter"]) == (1, None)
    other = await operator(live)
    assert code_of(live, await get(live, path, other), 404) == "not_found"
    done = await live.client.post(f"{path}/abort", headers=seat.headers)
    assert body_of(live, done, "Replay")["state"] == "aborted"
    again = await live.client.post(f"{path}/abort", headers=seat.headers)
    assert code_of(live, again, 409) == "already_finished"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid_input"),
        ({"filter": {}}, 422, "invalid_input"),
        ({"filter": {"all": True, "code": "x"}}, 422, "invalid_input"),
        ({"filter": {"all": True}, "ids": []}, 422, "out_of_range"),
        ({"filter": {"cod": "x"}}, 422, "unknown_field"),
        ({"filter": {"code": "a\0"}}, 422, "nul_not_allowed"),
        ({"filter": {"since": "yesterday"}}, 422, "invalid_input"),
        ({"ids": ["x"]}, 422, "invalid_input"),
        ({"filter": {"all": True}, "rate": 0}, 422, "out_of_range"),
        ({"filter": {"all": True}, "stop_if_fail": 0.5}, 422, "out_of_range"),
        ({"filter": {"code": "tool_failed"}, "edit": {"x": 1}}, 422, "unknown_field"),
        ({"filter": {"code": "tool_failed"}, "edit": {"model": "no/x"}}, 422,
         "unknown_provider"),
        ({"ids": [str(clock.uuid7())]}, 404, "not_found"),
    ],
)  # fmt: skip
async def test_a_replay_that_makes_no_sense_changes_nothing(
    live: Live, body: dict[str, Any], status: int, code: str
) -> None:
    seat = await operator(live)
    job = await failed(live, seat)
    assert code_of(live, await post(live, REPLAYS, seat, body), status) == code
    page = body_of(live, await get(live, LETTERS, seat), "LetterPage")
    assert [one["job"] for one in page["data"]] == [str(job)]


async def test_a_query_that_nobody_knows_is_refused(live: Live) -> None:
    seat = await operator(live)
    for query, code in (
        ({"chian": "x"}, "unknown_field"), ({"cursor": "x"}, "invalid_cursor"),
        ({"state": "shut"}, "out_of_range"), ({"limit": 0}, "out_of_range"),
    ):  # fmt: skip
        answer = await get(live, LETTERS, seat, **query)
        assert code_of(live, answer, answer.status_code) == code
    reader = await live.seat("read")
    assert code_of(live, await get(live, LETTERS, reader), 403) == "missing_scope"
