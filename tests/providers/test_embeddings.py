"""Vectors: what every service that has them promises, and what is made of bad answers."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmgine_workers.llm import CallFailed, EmbedRequest
from llmgine_workers.providers.exchange import HttpProvider
from llmgine_workers.providers.openai_wire import OpenAIWire
from llmgine_workers.providers.rows import SERVICES
from llmgine_workers.simulator import Simulator
from tests.providers.conftest import ANTHROPIC, JOB, KEY, OPENAI, answering, head

TEXTS = ["wheat in autumn", "autumn wheat", "a ship at sea"]
WITH = sorted(n for n, row in SERVICES.items() if row.embeddings == "/embeddings")


@pytest.fixture
async def provider(simulator: Simulator) -> AsyncIterator[HttpProvider]:
    opened = OPENAI.open(simulator.url)
    yield opened
    await opened.close()


async def test_a_vector_for_each_text_with_usage_and_ids(
    provider: HttpProvider, simulator: Simulator
) -> None:
    asked = EmbedRequest("text-embedding-3-small", TEXTS, dimensions=32)
    answer = await provider.embed(asked, timeout_s=5, headers=JOB)
    seen = simulator.calls[-1]
    assert [len(vector) for vector in answer.vectors] == [32, 32, 32]
    one, like_it, other = answer.vectors
    assert math.dist(one, like_it) < math.dist(one, other)
    assert (answer.status, answer.request_id) == (200, seen.request_id)
    assert answer.usage.calls == 1
    assert answer.usage.input_tokens == seen.input_tokens > 0
    assert answer.usage.output_tokens == 0
    assert (seen.job, seen.step) == (JOB["x-llmgine-job"], JOB["x-llmgine-step"])


async def test_the_model_decides_on_the_size_unless_it_is_asked_for(
    provider: HttpProvider,
) -> None:
    answer = await provider.embed(EmbedRequest("e", TEXTS), timeout_s=5, headers=JOB)
    assert {len(vector) for vector in answer.vectors} == {256}


async def test_a_refusal_says_why(provider: HttpProvider) -> None:
    asked = EmbedRequest("e", TEXTS, dimensions=60_000)
    with pytest.raises(CallFailed) as caught:
        await provider.embed(asked, timeout_s=5, headers=JOB)
    assert caught.value.failure.code == "provider_rejected"
    assert "dimensions" in caught.value.failure.message


async def test_a_service_without_embeddings_is_not_asked(simulator: Simulator) -> None:
    provider, before = ANTHROPIC.open(simulator.url), len(simulator.calls)
    with pytest.raises(CallFailed) as caught:
        await provider.embed(EmbedRequest("e", TEXTS), timeout_s=5, headers=JOB)
    await provider.close()
    assert caught.value.failure.code == "provider_rejected"
    assert len(simulator.calls) == before


def body(data: Any, **more: Any) -> list[bytes]:
    return [head(kind="application/json"), json.dumps({"data": data, **more}).encode()]


def items(*vectors: Any) -> list[dict[str, Any]]:
    return [{"index": n, "embedding": vector} for n, vector in enumerate(vectors)]


async def embedded(pieces: list[bytes], **asked: Any) -> Any:
    async with answering(pieces) as origin:
        provider = OPENAI.open(origin)
        try:
            request = EmbedRequest("e", ["a", "b"], **asked)
            return await provider.embed(request, timeout_s=5, headers=JOB)
        finally:
            await provider.close()


async def test_vectors_come_in_the_order_of_the_texts() -> None:
    answer = await embedded(body(items([1.0, 2], [3, 4.5])[::-1], usage=None))
    assert answer.vectors == [[1.0, 2], [3, 4.5]]
    assert answer.usage.input_tokens > 0  # guessed where nobody counted


@pytest.mark.parametrize(
    "data",
    [[], items([1.0]), items([1.0], [1.0, 2.0]), items("AAAA", "AAAA"), items([], []),
     items([None], [1.0]), None, [{"embedding": [1.0]}]],
)  # fmt: skip
async def test_what_is_not_a_vector_for_each_text_is_a_bad_answer(data: Any) -> None:
    with pytest.raises(CallFailed) as caught:
        await embedded(body(data))
    assert caught.value.failure.code == "provider_bad_response"


async def test_an_error_with_status_200_is_one() -> None:
    said = [head(kind="application/json"), b'{"error": {"code": "insufficient_quota"}}']
    with pytest.raises(CallFailed) as caught:
        await embedded(said)
    assert caught.value.failure.code == "provider_quota"


async def test_vectors_of_another_size_are_refused_and_paid() -> None:
    answer = body(items([1.0], [2.0]), usage={"prompt_tokens": 9, "total_tokens": 9})
    with pytest.raises(CallFailed) as caught:
        await embedded(answer, dimensions=2)
    assert caught.value.failure.code == "provider_rejected"
    assert caught.value.usage is not None
    assert caught.value.usage.input_tokens == 9


@pytest.mark.parametrize("name", WITH)
async def test_every_service_that_has_embeddings_answers_at_its_path(
    name: str, simulator: Simulator
) -> None:
    url = f"{simulator.url}/v1"
    provider = HttpProvider(name, OpenAIWire(), SERVICES[name], url=url, key=KEY)
    answer = await provider.embed(EmbedRequest("e", TEXTS), timeout_s=5, headers=JOB)
    await provider.close()
    assert len(answer.vectors) == len(TEXTS)
