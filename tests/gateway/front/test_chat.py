"""The official OpenAI clients against the gateway: every call is a durable job."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import openai
import pytest
from pydantic import BaseModel

from gateway.front import shapes
from tests.gateway.conftest import Seat
from tests.gateway.front.conftest import MODEL, Asking, Front

pytestmark = pytest.mark.integration


def text_of(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


async def test_an_unmodified_client_gets_its_answer(theirs: Asking) -> None:
    answer = await theirs.chat("[[sim:text=Hello, you.]]")
    assert answer.choices[0].message.content == "Hello, you."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == (
        answer.usage.prompt_tokens + answer.usage.completion_tokens
    )
    shapes.ChatCompletion.model_validate_json(answer.model_dump_json(exclude_unset=True))


async def test_an_unmodified_client_gets_its_stream(theirs: Asking) -> None:
    chunks = await theirs.chat(
        "[[sim:text=One two three four five.]] [[sim:chunks=5]] [[sim:latency=0.4]]",
        stream=True,
        stream_options={"include_usage": True},
    )
    assert text_of(chunks) == "One two three four five."
    assert len([c for c in chunks if c.choices and c.choices[0].delta.content]) > 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert [bool(c.usage) for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert {c.id for c in chunks} == {chunks[0].id}


async def test_the_header_names_a_job_that_anybody_can_look_at(
    front: Front, seat: Seat, asking: Asking
) -> None:
    raw = await asking.call(
        lambda c: c.chat.completions.with_raw_response.create(
            model="fast",
            messages=[{"role": "user", "content": "[[sim:text=Kept.]]"}],
            metadata={"order": "A-17"},
            extra_headers={"Llmgine-Priority": "interactive", "Llmgine-Timeout": "90s"},
        )
    )
    job = UUID(raw.headers["llmgine-job"])
    assert raw.headers["link"] == f'</v1/jobs/{job}>; rel="status"'
    assert raw.headers["x-request-id"]
    shown = (await front.http.get(f"/v1/jobs/{job}", headers=seat.headers)).json()
    assert shown["output"] == "Kept."
    assert shown["metadata"] == {"order": "A-17"}
    assert shown["options"]["priority"] == "interactive"
    assert shown["options"]["timeout_s"] == 90
    assert shown["progress"]["total"] == 1


async def test_a_whole_conversation_with_its_options_reaches_the_provider(
    front: Front, seat: Seat, asking: Asking, mark: str
) -> None:
    raw = await asking.call(
        lambda c: c.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[
                {"role": "developer", "content": "Be short."},
                {"role": "user", "content": [{"type": "text", "text": f"{mark} one"}]},
                {"role": "assistant", "content": "Yes?"},
                {"role": "user", "content": "{{ inputs.messages.0 }} {{ '{{' | x }} }}"},
            ],
            max_completion_tokens=50,
            temperature=0.5,
            top_p=0.9,
            seed=7,
            stop=["END"],
            frequency_penalty=0.5,
            presence_penalty=-0.5,
            reasoning_effort="low",
            user="somebody",
            n=1,
        )
    )
    reader = await front.live.seat("read", "payloads", tenant=seat.tenant)
    step = await front.http.get(
        f"/v1/jobs/{raw.headers['llmgine-job']}/steps/chat", headers=reader.headers
    )
    sent = step.json()["request"]
    assert sent["system"] == "Be short."
    assert sent["messages"] == [
        {"role": "user", "content": f"{mark} one"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "{{ inputs.messages.0 }} {{ '{{' | x }} }}"},
    ]
    assert {name: sent[name] for name in ("max_tokens", "temperature", "top_p")} == {
        "max_tokens": 50, "temperature": 0.5, "top_p": 0.9,
    }  # fmt: skip
    assert (sent["seed"], sent["stop"], sent["reasoning_effort"]) == (7, ["END"], "low")
    assert (sent["frequency_penalty"], sent["presence_penalty"]) == (0.5, -0.5)


async def test_calls_that_differ_in_numbers_share_a_version_of_their_chain(
    front: Front, seat: Seat, asking: Asking
) -> None:
    reader = await front.live.seat("read", "payloads", tenant=seat.tenant)
    client: Any = asking.client
    versions, seeds = set(), []
    for seed in (11, 12):
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Number {seed}."}],
            "seed": seed,
            "temperature": seed / 10,
            "max_tokens": seed,
        }
        raw = await client.chat.completions.with_raw_response.create(**body)
        job = f"/v1/jobs/{raw.headers['llmgine-job']}"
        shown = await front.http.get(job, headers=reader.headers)
        versions.add(shown.json()["chain"]["version"])
        step = await front.http.get(f"{job}/steps/chat", headers=reader.headers)
        sent = step.json()["request"]
        seeds.append((sent["seed"], sent["temperature"], sent["max_tokens"]))
    assert len(versions) == 1
    assert seeds == [(11, 1.1, 11), (12, 1.2, 12)]


class Point(BaseModel):
    x: int
    y: int


async def test_their_parser_of_structured_answers_works(theirs: Asking) -> None:
    answer = await theirs.call(
        lambda c: c.chat.completions.parse(
            model=MODEL,
            messages=[{"role": "user", "content": "A point."}],
            response_format=Point,
        )
    )
    assert isinstance(answer.choices[0].message.parsed, Point)


async def test_any_json_object_can_be_asked_for(asking: Asking) -> None:
    answer = await asking.chat("Anything.", response_format={"type": "json_object"})
    assert answer.choices[0].message.content.startswith("{")


async def test_a_call_waits_in_line_instead_of_being_refused(
    front: Front, asking: Asking
) -> None:
    async with front.pause:
        asked = [
            asyncio.ensure_future(asking.chat(f"[[sim:text={n}]]")) for n in range(8)
        ]
        done, _ = await asyncio.wait(asked, timeout=0.3)
        assert not done
    answers = await asyncio.gather(*asked)
    assert [a.choices[0].message.content for a in answers] == [str(n) for n in range(8)]


async def test_the_same_key_is_the_same_job(
    front: Front, asking: Asking, mark: str
) -> None:
    async def ask(text: str) -> Any:
        return await asking.call(
            lambda c: c.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "user", "content": text}],
                extra_headers={"Idempotency-Key": mark},
            )
        )

    first, again = await asyncio.gather(ask(mark), ask(mark))
    assert first.headers["llmgine-job"] == again.headers["llmgine-job"]
    assert first.parse().choices[0].message == again.parse().choices[0].message
    with pytest.raises(openai.BadRequestError) as refused:
        await ask("another text")
    assert refused.value.code == "idempotency_mismatch"


async def test_the_job_outlives_its_client(front: Front, seat: Seat, mark: str) -> None:
    async with front.pause:
        impatient = openai.AsyncOpenAI(
            base_url=f"{front.url}/v1", api_key=seat.text, timeout=0.5, max_retries=0
        )
        with pytest.raises(openai.APITimeoutError):
            await Asking(impatient).chat(
                mark, extra_headers={"x-stainless-read-timeout": "600"}
            )
    (job,) = (await front.http.get("/v1/jobs", headers=seat.headers)).json()["data"]
    ended = await front.http.get(f"/v1/jobs/{job['id']}?wait=10", headers=seat.headers)
    assert ended.json()["state"] == "succeeded"


async def test_a_client_that_will_not_wait_is_answered_before_it_asks_again(
    front: Front, seat: Seat
) -> None:
    async with (
        front.pause,
        openai.AsyncOpenAI(
            base_url=f"{front.url}/v1", api_key=seat.text, timeout=1.5
        ) as client,
    ):
        with pytest.raises(openai.InternalServerError) as late:
            await Asking(client).chat("Too slow.")
    assert (late.value.status_code, late.value.code) == (504, "not_finished")
    listed = (await front.http.get("/v1/jobs", headers=seat.headers)).json()["data"]
    assert [job["id"] for job in listed] == [late.value.response.headers["llmgine-job"]]


async def test_models_are_listed_and_can_be_asked_for(
    front: Front, theirs: Asking
) -> None:
    listed = (await theirs.call(lambda c: c.models.list())).data
    names = [model.id for model in listed]
    assert names[:2] == ["fast", "either"]
    assert "nobody" not in names
    assert {MODEL, "anthropic/claude-haiku-4-5"} <= set(names)
    assert not [name for name in names if name.startswith("groq/")]
    one = await theirs.call(lambda c: c.models.retrieve(MODEL))
    assert (one.id, one.owned_by) == (MODEL, "openai")
    with pytest.raises(openai.NotFoundError):
        await theirs.call(lambda c: c.models.retrieve("no/such"))


async def test_an_option_goes_to_the_models_of_an_alias_that_take_it(
    asking: Asking,
) -> None:
    plain = await asking.chat("[[sim:text=a]]", model="either")
    warm = await asking.chat("[[sim:text=a]]", model="either", temperature=1.0)
    assert plain.model == "anthropic/claude-haiku-4-5"
    assert warm.model == MODEL
