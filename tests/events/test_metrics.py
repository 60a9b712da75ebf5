"""What is counted of the facts, under which labels, and what is not."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen

import pytest

from llmgine_workers import clock
from llmgine_workers.errors import ConfigurationError, Failure
from llmgine_workers.events import facts
from llmgine_workers.events.emit import Events
from llmgine_workers.events.exposed import exposed
from llmgine_workers.events.metrics import Metrics
from llmgine_workers.llm import Usage
from llmgine_workers.local.server import free_port

JOB, STARTED = clock.uuid7(), clock.now()
MODEL = "openai/gpt-5-mini"
DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"llmgine_{name}", labels)


def finished(state: str, **more: object) -> facts.AttemptFinished:
    return facts.AttemptFinished(
        clock.uuid7(), JOB, "draft", 1, MODEL, state, STARTED,
        at=STARTED + timedelta(seconds=2), **more,  # type: ignore[arg-type]
    )  # fmt: skip


async def test_a_call_is_counted_with_its_time_tokens_and_cost() -> None:
    metrics = Metrics()
    events = Events([metrics])
    await events.emit(facts.StepStarted(JOB, "draft", attempt=1, model=MODEL))
    assert value(metrics, "calls_in_flight", pool="openai") == 1
    await events.emit(
        finished(
            "succeeded",
            first_token_at=STARTED + timedelta(seconds=0.3),
            usage=Usage(calls=1, input_tokens=100, output_tokens=20),
            cost_usd=0.25,
        )
    )
    of_call = {"pool": "openai", "model": MODEL}
    assert value(metrics, "calls_in_flight", pool="openai") == 0
    assert value(metrics, "attempts_total", **of_call, state="succeeded", code="") == 1
    assert value(metrics, "call_seconds_sum", **of_call) == pytest.approx(2)
    assert value(metrics, "first_token_seconds_bucket", **of_call, le="0.5") == 1
    assert value(metrics, "first_token_seconds_bucket", **of_call, le="0.25") == 0
    assert value(metrics, "tokens_total", **of_call, kind="input") == 100
    assert value(metrics, "tokens_total", **of_call, kind="output") == 20
    assert value(metrics, "cost_usd_total", **of_call) == 0.25


async def test_what_goes_wrong_is_counted_by_what_it_is() -> None:
    metrics = Metrics()
    failure = Failure("provider_overloaded", "busy")
    waiting = {"reason": "limit", "detail": "", "since": "", "until": ""}
    await Events([metrics]).emit(
        finished("failed", error=failure),
        facts.StepWaiting(JOB, "draft", waiting),
        facts.PublishFailed("openai", 7, "away"),
        facts.LetterRecorded(clock.uuid7(), JOB, "draft", "provider_auth"),
        facts.JobFinished(JOB, "failed"),
    )
    of_call = {"pool": "openai", "model": MODEL, "state": "failed"}
    assert value(metrics, "attempts_total", **of_call, code="provider_overloaded") == 1
    assert value(metrics, "waits_total", reason="limit") == 1
    assert value(metrics, "hints_unconfirmed_total", pool="openai") == 7
    assert value(metrics, "letters_total", code="provider_auth") == 1
    assert value(metrics, "jobs_finished_total", state="failed") == 1


def test_two_processes_in_one_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.open_letters(3)
    assert value(one, "letters_open") == 3
    assert value(other, "letters_open") == 0


def test_a_process_shows_them_where_it_is_told_and_no_longer_than_it_runs() -> None:
    metrics, port = Metrics(), free_port()
    metrics.open_letters(5)
    with exposed(metrics, f"127.0.0.1:{port}"):
        with urlopen(f"http://127.0.0.1:{port}/metrics") as shown:
            assert b"llmgine_letters_open 5.0" in shown.read()
        with (
            pytest.raises(ConfigurationError, match=r"telemetry\.metrics"),
            exposed(metrics, f"127.0.0.1:{port}"),
        ):
            pass
    with exposed(metrics, f"127.0.0.1:{port}"):
        pass
    with pytest.raises(ConfigurationError), exposed(metrics, "nowhere"):
        pass


def test_every_metric_is_in_the_guide_with_its_labels() -> None:
    told = {
        name: set(labels.strip("`").split())
        for name, labels in re.findall(
            r"^\| `(llmgine_\w+)` \| (`[^`]*`|) ?\|", DOCS.read_text("utf-8"), re.M
        )
    }
    kinds = {"counter": "_total"}
    defined = {
        found.name + kinds.get(found.type, ""): set(
            Metrics().registry._names_to_collectors[found.name]._labelnames  # type: ignore[attr-defined]
        )
        for found in Metrics().registry.collect()
        if found.name.startswith("llmgine_")
    }
    assert told == defined
