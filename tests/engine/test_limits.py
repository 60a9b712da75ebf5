"""Limits on tokens, from the submit to the settled call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmgine_workers.engine.bounds import BOUND_MAX_TOKENS, bounds_of
from llmgine_workers.engine.outcome import Dead, Done
from llmgine_workers.engine.run_step import run_step
from llmgine_workers.errors import Refusal
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.prices import Prices
from llmgine_workers.worker_runtime import WorkerRuntime
from tests.engine.line import MODEL, Line, chain, key, llm, open_line
from tests.engine.stand_ins import USAGE, answer, failing

pytestmark = pytest.mark.integration
LIMIT = 10_000


@pytest.fixture
async def limited(
    migrated: Ledger, redis_url: str, prices: Prices
) -> AsyncIterator[Line]:
    """A line with a limit on the tokens of a minute, and one call at once."""
    limit = {"match": "openai/*", "tokens": f"{LIMIT}/1m", "in_flight": 1}
    async with open_line(migrated, redis_url, prices, limits=[limit]) as line:
        yield line


async def left(rt: WorkerRuntime) -> list[int]:
    found = await rt.admission.limiter.left(rt.rules.of(MODEL, "t"))
    return [one.units for one in found.values()]


def test_bytes_bound_what_is_read_and_max_tokens_what_is_written() -> None:
    request: dict[str, Any] = {"messages": [{"role": "user", "content": "äöü" * 100}]}
    bounds = bounds_of({**request, "system": "Be brief.", "max_tokens": 50})
    assert 609 <= bounds.input_tokens <= 700
    assert bounds.output_tokens == 50
    assert bounds_of(request).output_tokens == BOUND_MAX_TOKENS


async def test_a_call_that_no_limit_ever_admits_is_refused_with_both_numbers(
    limited: Line,
) -> None:
    with pytest.raises(Refusal) as refused:
        await limited.submit(chain(llm("draft", "x" * 6000, max_tokens=5000)))
    assert refused.value.code == "exceeds_limit"
    (finding,) = refused.value.findings
    assert finding["limit"] == LIMIT
    for said in ("draft: ", "may use 110", f"never admits more than {LIMIT}"):
        assert said in finding["detail"]


async def test_one_that_another_model_of_its_list_may_take_is_not(limited: Line) -> None:
    step = llm("draft", "x" * 6000, max_tokens=5000)
    step["llm"]["model"] = [MODEL, "anthropic/test-model"]
    await limited.submit(chain(step))


async def test_one_that_is_rendered_later_fails_by_name(limited: Line) -> None:
    rt = await limited.worker()
    later = llm("final", "{{ steps.draft.output }}", max_tokens=5000)
    job = await limited.submit(chain(llm("draft", max_tokens=100), later))
    limited.provider.will(answer("long " * 1500))
    assert await run_step(rt, job, "draft") == Done()
    outcome = await run_step(rt, job, "final")
    assert isinstance(outcome, Dead)
    assert outcome.code == "exceeds_limit"
    assert f"{LIMIT} tokens/1m" in outcome.message
    assert len(limited.provider.calls) == 1


@pytest.mark.parametrize(
    ("behaviour", "used"),
    [
        (answer(), USAGE.input_tokens + USAGE.output_tokens),
        (failing("provider_unavailable"), 0),
        (failing("stream_cut"), None),
    ],
)
async def test_a_call_is_settled_by_what_it_used_or_keeps_its_bound(
    limited: Line, behaviour: Any, used: int | None
) -> None:
    rt = await limited.worker()
    job = await limited.submit(chain(llm("draft", max_tokens=500)))
    limited.provider.will(behaviour)
    await run_step(rt, job, "draft")
    tokens, slots = await left(rt)
    assert slots == 1
    if used is None:
        assert tokens < LIMIT - 500
    else:
        assert tokens == LIMIT - used


async def test_output_without_a_bound_gets_one_where_a_limit_needs_it(
    limited: Line,
) -> None:
    rt = await limited.worker()
    job = await limited.submit(chain(llm("draft")))
    await run_step(rt, job, "draft")
    assert limited.provider.calls[0].request.max_tokens == BOUND_MAX_TOKENS


async def test_a_bug_in_a_call_gives_its_slot_back(limited: Line) -> None:
    rt = await limited.worker()
    job = await limited.submit(chain(llm("draft", max_tokens=500)))
    limited.provider.will(RuntimeError("a bug"))
    await run_step(rt, job, "draft")
    assert (await left(rt))[1] == 1


async def test_a_call_is_said_to_begin_after_its_claim_and_before_it_is_made(
    limited: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    rt = await limited.worker()
    job = await limited.submit(chain(llm("draft", max_tokens=500)))
    seen: list[tuple[int, int]] = []

    async def begin(_: object) -> None:
        seen.append((len(await limited.place.attempts(key(job))),
                     len(limited.provider.calls)))  # fmt: skip

    monkeypatch.setattr(rt.admission, "begin", begin)
    await run_step(rt, job, "draft")
    assert seen == [(1, 0)]
