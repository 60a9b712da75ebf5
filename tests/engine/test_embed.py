"""`embed` steps through the engine: the same gates, limits and ends as any call."""

from __future__ import annotations

from array import array
from base64 import b64decode
from typing import Any
from uuid import UUID

import orjson
import pytest

from llmgine_workers.engine.submit import JobRequest, Options, submit
from llmgine_workers.errors import Refusal
from llmgine_workers.events import facts
from llmgine_workers.ledger import views
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.prices import Prices
from tests.engine.line import MODEL, Line, chain, key, open_line
from tests.engine.stand_ins import USAGE_OF_TEXTS, failing

pytestmark = pytest.mark.integration

TEXTS = ["one", "three"]


def embedding(**call: Any) -> dict[str, Any]:
    whole = {"model": MODEL, "input": "{{ inputs.texts }}", **call}
    return chain({"name": "draft", "embed": whole}, inputs={"texts": {}})


async def begin(line: Line, texts: Any = TEXTS, **call: Any) -> UUID:
    options = Options(**call.pop("options", {}))
    request = JobRequest(
        chain=embedding(**call), inputs={"texts": texts}, options=options
    )
    return (await submit(line.rt, "acme", request)).job


async def test_the_output_is_a_vector_for_each_text_and_the_call_is_paid(
    line: Line,
) -> None:
    rt = await line.worker()
    job = await begin(line, dimensions=2)
    await line.run_to_end(rt, job)
    (asked,) = line.provider.embeds
    assert (asked.model, asked.texts, asked.dimensions) == ("test-model", TEXTS, 2)
    shown = await views.job(line.ledger, "acme", job)
    assert shown is not None
    assert shown["output"] == [[3.0, 1.0], [5.0, 1.0]]
    assert shown["usage"]["input_tokens"] == USAGE_OF_TEXTS.input_tokens
    assert shown["cost_usd"] == 0.0001
    row = await line.place.step_row(key(job))
    assert (row["kind"], row["pool"]) == ("embed", "openai")
    (told,) = [fact for fact in line.ear.facts if isinstance(fact, facts.AttemptFinished)]
    assert told.kind == "embed"


async def test_base64_is_little_endian_float32(line: Line) -> None:
    job = await begin(line, encoding="base64")
    await line.run_to_end(await line.worker(), job)
    first, second = orjson.loads(await line.output(job) or "")
    assert list(array("f", b64decode(first))) == [3.0, 1.0]
    assert list(array("f", b64decode(second))) == [5.0, 1.0]


async def test_a_failed_call_is_made_again_and_goes_to_the_next_model(
    line: Line,
) -> None:
    models = [MODEL, "openai/other-model"]
    rt = await line.worker()
    job = await begin(line, options={"max_attempts": 2}, model=models)
    line.provider.will(failing("provider_overloaded"), failing("provider_quota"))
    await line.run_to_end(rt, job)
    asked = [request.model for request in line.provider.embeds]
    assert asked == ["test-model", "test-model", "other-model"]
    attempts = await line.place.attempts(key(job))
    assert [row["state"] for row in attempts] == ["failed", "failed", "succeeded"]
    assert (await line.place.job_row(job))["state"] == "succeeded"


async def test_a_provider_without_embeddings_is_refused_before_anything_waits(
    line: Line,
) -> None:
    with pytest.raises(Refusal) as caught:
        await begin(line, model="anthropic/test-model")
    assert caught.value.code == "embeddings_not_supported"
    assert "anthropic/test-model" in str(caught.value)


async def test_of_a_list_only_models_with_embeddings_are_asked(line: Line) -> None:
    rt = await line.worker()
    job = await begin(line, model=["anthropic/test-model", MODEL])
    await line.run_to_end(rt, job)
    row = await line.place.step_row(key(job))
    assert (row["model"], row["state"]) == (MODEL, "succeeded")


async def test_more_vectors_than_are_stored_are_refused_before_they_are_paid(
    line: Line,
) -> None:
    with pytest.raises(Refusal) as caught:
        await begin(line, ["x"] * 300, dimensions=3072)
    assert caught.value.code == "invalid_input"
    assert "at most 136 are" in str(caught.value)
    assert await begin(line, ["x"] * 200, dimensions=3072, encoding="base64")


async def test_a_step_with_an_unknown_size_that_is_too_large_fails_and_is_paid(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgine_workers.engine.clean.MAX_PAYLOAD", 200)
    job = await begin(line, ["x"] * 30)
    await line.run_to_end(await line.worker(), job)
    row = await line.place.job_row(job)
    assert (row["state"], row["failure"]["code"]) == ("failed", "too_large")
    (attempt,) = await line.place.attempts(key(job))
    assert attempt["cost"] == 100


async def test_only_its_input_is_held_against_limits_and_budgets(
    migrated: Ledger, redis_url: str, prices: Prices
) -> None:
    limits = [{"match": "openai/*", "tokens": "100/1m", "input_tokens": "100/1m"}]
    async with open_line(migrated, redis_url, prices, limits=limits) as line:
        rt = await line.worker()
        job = await begin(line, options={"max_cost_usd": 0.00005})
        await line.run_to_end(rt, job)
        assert (await line.place.job_row(job))["state"] == "succeeded"
        with pytest.raises(Refusal) as caught:
            await begin(line, ["x" * 200])
        assert caught.value.code == "exceeds_limit"
