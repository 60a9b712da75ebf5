from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import httpx2
import jsonschema_rs
import pytest

from gateway.errors import MEDIA_TYPE
from llmgine_workers import clock
from llmgine_workers.ledger import views
from tests.gateway.conftest import CHAIN, Live, Seat

pytestmark = pytest.mark.integration

BODY: dict[str, Any] = {"chain": "summarize", "inputs": {"text": "Prices rose."}}


def shape(live: Live, name: str) -> jsonschema_rs.Validator:
    components = live.app.openapi()["components"]
    schema = {"$ref": f"#/components/schemas/{name}", "components": components}
    return jsonschema_rs.validator_for(schema)


def body_of(live: Live, answer: httpx2.Response, name: str, status: int = 200) -> Any:
    """The answer's body, which must be what `/openapi.json` says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    shape(live, name).validate(answer.json())
    return answer.json()


def code_of(live: Live, answer: httpx2.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    shape(live, "Problem").validate(answer.json())
    return str(answer.json()["code"])


async def get(live: Live, path: str, seat: Seat, **query: Any) -> httpx2.Response:
    return await live.client.get(path, params=query, headers=seat.headers)


async def post(live: Live, seat: Seat, body: Any, **headers: str) -> httpx2.Response:
    return await live.client.post(
        "/v1/jobs", json=body, headers={**seat.headers, **headers}
    )


async def test_a_job_is_accepted_and_can_be_looked_at(live: Live) -> None:
    seat = await live.seat("submit", "read")
    answer = await post(live, seat, {**BODY, "metadata": {"order": "A-17"}})
    made = body_of(live, answer, "Job", 202)
    assert answer.headers["location"] == made["links"]["self"] == f"/v1/jobs/{made['id']}"
    assert "idempotent-replayed" not in answer.headers
    assert made["tenant"] == seat.tenant
    assert made["state"] == "queued"
    assert made["inputs"] == {"text": "Prices rose.", "sentences": 3}
    assert made["metadata"] == {"order": "A-17"}
    assert made["simulated"] is True
    seen = body_of(live, await get(live, answer.headers["location"], seat), "Job")
    assert seen == made


async def test_a_chain_may_come_with_the_job(live: Live) -> None:
    seat = await live.seat("submit", "read")
    chain = {**CHAIN, "name": "mine"}
    made = body_of(live, await post(live, seat, {**BODY, "chain": chain}), "Job", 202)
    assert made["chain"]["name"] == "mine"
    assert made["chain"]["version"].startswith("sha256:")


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"chain": "nothing"}, "unknown_chain", None),
        ({"tool": "nothing"}, "unknown_tool", None),
        ({**BODY, "inputs": {"text": "x", "sentences": 50}}, "out_of_range",
         "/inputs/sentences"),
        ({**BODY, "inputs": {}}, "invalid_input", "/inputs/text"),
        ({**BODY, "inputs": {"text": "x", "txt": 1}}, "unknown_field", "/inputs/txt"),
        ({"chain": {"name": "x", "steps": []}}, "invalid_chain", "/chain/steps"),
        ({"chain": {**CHAIN, "wait": 1}, "inputs": BODY["inputs"]}, "invalid_chain",
         "/chain/wait"),
    ],
)  # fmt: skip
async def test_what_cannot_run_is_refused_with_its_place(
    live: Live, body: Any, code: str, pointer: str | None
) -> None:
    seat = await live.seat("submit", "read")
    answer = await post(live, seat, body)
    assert code_of(live, answer, 422) == code
    pointers = [one["pointer"] for one in answer.json()["errors"]]
    assert pointer is None or pointer in pointers
    page = body_of(live, await get(live, "/v1/jobs", seat), "JobPage")
    assert page["data"] == []


@pytest.mark.parametrize(
    ("model", "code"),
    [("opena1/gpt", "unknown_provider"), ("quick", "unknown_model"),
     ("anthropic/claude", "provider_not_enabled")],
)  # fmt: skip
async def test_a_model_that_nobody_serves_is_refused(
    live: Live, model: str, code: str
) -> None:
    seat = await live.seat("submit")
    step = {"name": "draft", "llm": {"model": model, "prompt": "x"}}
    answer = await post(live, seat, {"chain": {"name": "x", "steps": [step]}})
    assert code_of(live, answer, 422) == code


async def test_a_tenant_over_its_cap_is_asked_to_come_back_later(live: Live) -> None:
    seat = await live.seat("submit")
    cap = live.rt.settings.gateway.max_queued_per_tenant
    async with live.rt.ledger.connection() as connection:
        await connection.execute(
            "insert into tenant_load values ($1, $2)", seat.tenant, cap
        )
    answer = await post(live, seat, BODY)
    assert code_of(live, answer, 429) == "tenant_queue_full"
    assert int(answer.headers["retry-after"]) > 0


async def test_the_same_key_and_body_is_the_same_job(live: Live) -> None:
    seat = await live.seat("submit", "read")
    first = await post(live, seat, BODY, **{"Idempotency-Key": "once"})
    again = await post(
        live,
        seat,
        dict(reversed(BODY.items())),
        **{"Idempotency-Key": "once", "Content-Type": "application/json"},
    )
    assert body_of(live, again, "Job", 202)["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    await live.succeed(UUID(first.json()["id"]))
    ended = await post(live, seat, BODY, **{"Idempotency-Key": "once"})
    assert body_of(live, ended, "Job", 200)["state"] == "succeeded"


async def test_the_same_key_with_another_body_is_a_mismatch(live: Live) -> None:
    seat = await live.seat("submit", "read")
    await post(live, seat, BODY, **{"Idempotency-Key": "once"})
    other = await post(live, seat, {**BODY, "metadata": {"a": "b"}},
                       **{"Idempotency-Key": "once"})  # fmt: skip
    assert code_of(live, other, 422) == "idempotency_mismatch"


async def test_tenants_do_not_share_idempotency_keys(live: Live) -> None:
    made = {
        (await post(live, seat, BODY, **{"Idempotency-Key": "once"})).json()["id"]
        for seat in (await live.seat("submit"), await live.seat("submit"))
    }
    assert len(made) == 2


async def test_fifty_simultaneous_posts_with_one_key_make_one_job(live: Live) -> None:
    seat = await live.seat("submit", "read")
    key = {"Idempotency-Key": 'any printable ~ "text"'}
    answers = await asyncio.gather(*(post(live, seat, BODY, **key) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
    assert sorted(replayed, key=str) == [None] + ["true"] * 49
    page = body_of(live, await get(live, "/v1/jobs", seat), "JobPage")
    assert len(page["data"]) == 1


async def test_another_tenants_job_is_as_unknown_as_no_job(live: Live) -> None:
    owner, stranger = await live.seat("submit"), await live.seat("read", "payloads")
    job = await live.submitted(owner)
    for path in ("", "/steps", "/steps/draft", "/events"):
        theirs = await get(live, f"/v1/jobs/{job}{path}", stranger)
        nobodys = await get(live, f"/v1/jobs/{clock.uuid7()}{path}", stranger)
        assert code_of(live, theirs, 404) == code_of(live, nobodys, 404) == "not_found"
        assert {**theirs.json(), "request_id": 0} == {**nobodys.json(), "request_id": 0}


async def test_waiting_answers_as_soon_as_the_job_ends(live: Live) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    waiting = asyncio.ensure_future(get(live, f"/v1/jobs/{job}", seat, wait=15))
    await asyncio.wait({waiting}, timeout=0.3)
    assert not waiting.done()
    await live.succeed(job)
    ended = body_of(live, await asyncio.wait_for(waiting, 3), "Job")
    assert (ended["state"], ended["output"]) == ("succeeded", "Prices rose")


async def test_a_wait_that_runs_out_answers_the_job_as_it_stands(live: Live) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    answer = await get(live, f"/v1/jobs/{job}", seat, wait=0.1)
    assert body_of(live, answer, "Job")["state"] == "queued"


@pytest.mark.parametrize("end", ["succeeded", "failed"])
async def test_a_post_that_waits_answers_200_however_the_job_ended(
    live: Live, end: str
) -> None:
    seat = await live.seat("submit", "read")
    posting = asyncio.ensure_future(
        live.client.post("/v1/jobs?wait=15", json=BODY, headers=seat.headers)
    )
    job = UUID((await the_one_job(live, seat))["id"])
    await (live.succeed(job) if end == "succeeded" else live.fail(job))
    ended = body_of(live, await asyncio.wait_for(posting, 5), "Job", 200)
    assert ended["state"] == end
    if end == "failed":
        assert ended["error"]["code"] == "tool_failed"
        assert UUID(ended["dead_letter"])


async def the_one_job(live: Live, seat: Seat) -> dict[str, Any]:
    async with asyncio.timeout(5):
        while True:
            page = await views.jobs(
                live.rt.ledger, seat.tenant, views.Wanted(), limit=2, before=None
            )
            if page.data:
                return page.data[0]
            await asyncio.sleep(0.02)


async def test_a_post_that_waits_in_vain_answers_202(live: Live) -> None:
    seat = await live.seat("submit", "read")
    answer = await live.client.post("/v1/jobs?wait=0.1", json=BODY, headers=seat.headers)
    assert body_of(live, answer, "Job", 202)["state"] == "queued"


async def test_who_may_submit_but_not_read_sees_no_payloads(live: Live) -> None:
    seat = await live.seat("submit")
    made = body_of(live, await post(live, seat, BODY), "Job", 202)
    assert (made["inputs"], made["output"]) == (None, None)


async def test_steps_are_listed_and_shown_with_attempts(live: Live) -> None:
    seat = await live.seat("submit", "read")
    insider = await live.seat("read", "payloads", tenant=seat.tenant)
    job = await live.submitted(seat)
    await live.succeed(job)
    page = body_of(live, await get(live, f"/v1/jobs/{job}/steps", seat), "StepPage")
    assert [one["path"] for one in page["data"]] == ["draft"]
    assert page["next_cursor"] is None
    one = body_of(live, await get(live, f"/v1/jobs/{job}/steps/draft", seat), "Step")
    assert one["output"] == "Prices rose"
    assert one["request"] is None
    whole = body_of(live, await get(live, f"/v1/jobs/{job}/steps/draft", insider), "Step")
    assert "In 3 sentences: Prices rose." in json.dumps(whole["request"])
    assert code_of(live, await get(live, f"/v1/jobs/{job}/steps/no", seat), 404)
    bad = await get(live, f"/v1/jobs/{job}/steps", seat, cursor="no.such.step")
    assert code_of(live, bad, 400) == "invalid_cursor"


async def test_jobs_are_listed_in_pages(live: Live) -> None:
    seat = await live.seat("submit", "read")
    made = [str(await live.submitted(seat)) for _ in range(3)]
    first = body_of(live, await get(live, "/v1/jobs", seat, limit=2), "JobPage")
    rest = body_of(
        live, await get(live, "/v1/jobs", seat, cursor=first["next_cursor"]), "JobPage"
    )
    assert rest["next_cursor"] is None
    seen = [one["id"] for one in first["data"] + rest["data"]]
    assert sorted(seen) == sorted(made)
    await live.succeed(UUID(made[0]))
    ended = await get(live, "/v1/jobs", seat, state="succeeded", chain="summarize")
    assert [one["id"] for one in ended.json()["data"]] == [made[0]]
    tagged = await live.submitted(seat, metadata={"order": "B-2"})
    found = await get(live, "/v1/jobs", seat, **{"metadata.order": "B-2"})
    assert [one["id"] for one in found.json()["data"]] == [str(tagged)]
    late = await get(live, "/v1/jobs", seat, created_after="2100-01-01T00:00:00Z")
    assert late.json()["data"] == []


async def test_a_page_looks_at_so_many_jobs_and_says_where_to_go_on(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "SCANNED", 3)
    seat = await live.seat("submit", "read")
    wanted = str(await live.submitted(seat, metadata={"order": "first"}))
    others = [str(await live.submitted(seat)) for _ in range(7)]
    query = {"metadata.order": "first"}
    pages: list[list[str]] = []
    cursor: dict[str, str] = {}
    while len(pages) < 10:
        page = body_of(live, await get(live, "/v1/jobs", seat, **query, **cursor),
                       "JobPage")  # fmt: skip
        pages.append([one["id"] for one in page["data"]])
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert pages == [[], [], [wanted]]
    assert cursor["cursor"] == others[1]


async def test_a_list_is_narrowed_by_all_its_filters_at_once(live: Live) -> None:
    seat = await live.seat("submit", "read")
    made = [await live.submitted(seat, metadata={"n": str(n)}) for n in range(3)]
    await live.fail(made[1])
    shown = (await get(live, f"/v1/jobs/{made[1]}", seat)).json()
    query = {"state": "failed", "chain": "summarize", "metadata.n": "1", "limit": 1}
    before = "2026-01-01T00:00:00Z"
    found = await get(live, "/v1/jobs", seat, **query, created_after=before)
    assert body_of(live, found, "JobPage")["data"] == [shown]
    for name, value in (
        ("state", "queued"), ("chain", "other"), ("metadata.n", "2"),
        ("metadata.m", "1"), ("batch", clock.uuid7()),
        ("created_after", shown["created_at"][:-1] + "999Z"),
    ):  # fmt: skip
        other = await get(live, "/v1/jobs", seat, **{**query, name: value})
        assert body_of(live, other, "JobPage")["data"] == [], name


async def test_the_registry_is_listed(live: Live) -> None:
    seat = await live.seat("read")
    page = body_of(live, await get(live, "/v1/chains", seat), "ChainPage")
    (found,) = [one for one in page["data"] if one["name"] == "summarize"]
    assert found["description"] == "Say it shorter."
    assert found["inputs"]["sentences"]["maximum"] == 20


async def test_events_are_streamed_and_resumed(live: Live) -> None:
    seat = await live.seat("submit", "read")
    job = await live.submitted(seat)
    path = f"/v1/jobs/{job}/events"
    seen: list[str] = []
    async with live.client.stream("GET", path, headers=seat.headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        lines = answer.aiter_lines()
        async for line in lines:
            seen.append(line)
            if line.startswith("event: step.queued"):
                break
    assert seen[:2] == ["id: 1", "event: job.queued"]
    await live.succeed(job)
    rest = await live.client.get(path, headers={**seat.headers, "Last-Event-ID": "2"})
    marks = [line for line in rest.text.split("\n") if line.startswith(("id", "event"))]
    assert marks == ["id: 3", "event: job.finished"]
    both = await live.client.get(
        path, params={"after": 0}, headers={**seat.headers, "Last-Event-ID": "2"}
    )
    assert both.text == rest.text
    done = await get(live, path, seat, after=3)
    assert (done.status_code, done.content) == (204, b"")


async def test_a_post_may_ask_for_its_events_at_once(live: Live) -> None:
    seat = await live.seat("submit", "read")
    headers = {**seat.headers, "Accept": "text/event-stream"}
    async with live.client.stream(
        "POST", "/v1/jobs", json=BODY, headers=headers
    ) as answer:
        assert answer.status_code == 200
        job = UUID(answer.headers["location"].rpartition("/")[2])
        await live.succeed(job)
        async with asyncio.timeout(10):
            text = "".join([part async for part in answer.aiter_text()])
    assert text.startswith("id: 1\nevent: job.queued\n")
    assert "event: job.finished" in text


async def test_a_gateway_whose_ledger_answers_is_ready(live: Live) -> None:
    for path in ("/healthz", "/readyz"):
        answer = await live.client.get(path)
        assert body_of(live, answer, "Health") == {"status": "ok"}


async def test_the_document_describes_every_route_without_fastapis_own_errors(
    live: Live,
) -> None:
    document = (await live.client.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/v1/jobs", "/v1/jobs/{job}", "/v1/jobs/{job}/steps",
        "/v1/jobs/{job}/steps/{path}", "/v1/jobs/{job}/events",
            "/v1/jobs/{job}/stream-token", "/v1/jobs/{job}/webhook",
            "/v1/jobs/{job}/cancel",
        "/v1/jobs/{job}/explain", "/v1/batches", "/v1/batches/{batch}", "/v1/pools",
        "/v1/chains", "/healthz", "/readyz", "/metrics",
        "/v1/chat/completions", "/v1/embeddings", "/v1/models", "/v1/models/{model}",
        "/v1/dead-letters",
        "/v1/dead-letters/{letter}", "/v1/dead-letter-groups", "/v1/dead-letters/ignore",
        "/v1/dead-letters/discard", "/v1/replays", "/v1/replays/{replay}",
        "/v1/replays/{replay}/abort",
    }  # fmt: skip
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    named = set(document["components"]["schemas"])
    used = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used <= named
    post_jobs = document["paths"]["/v1/jobs"]["post"]
    assert set(post_jobs["responses"]) == {"200", "202", "default"}
    assert "JobSubmission" in json.dumps(post_jobs["requestBody"])
    assert shape(live, "JobSubmission").is_valid(BODY)
    assert not shape(live, "JobSubmission").is_valid({**BODY, "extra": 1})
