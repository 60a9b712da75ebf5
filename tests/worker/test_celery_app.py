"""What the task tells Celery, and what a worker refuses to start with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Ignore, Retry

from llmgine_workers.broker.messages import STEP_TASK
from llmgine_workers.celery_app import DeadStep, Program, make_app
from llmgine_workers.engine import outcome
from tests.worker.toy_worker import start_toy

UNTIL = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def conclude(ending: outcome.Outcome) -> Any:
    """What the task does when the engine's answer is this."""

    async def run_hint(job: str, path: str) -> outcome.Outcome:
        assert (job, path) == ("J", "draft")
        return ending

    app = make_app("memory://", "llmgine", [], Program(run_hint), slots=1)
    return app.tasks[STEP_TASK].run("J", "draft")


def test_done_succeeds() -> None:
    assert conclude(outcome.Done()) is None


def test_skip_is_ignored() -> None:
    with pytest.raises(Ignore, match="moved"):
        conclude(outcome.Skip("moved"))


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (outcome.Wait("limit", UNTIL), "wait until 2026-11-20T12:00:00.000+00:00: limit"),
        (outcome.Retry("cut", UNTIL), "retry until 2026-11-20T12:00:00.000+00:00: cut"),
        (outcome.Failover("anthropic"), "goes on in pool anthropic"),
    ],
)
def test_what_goes_on_is_a_retry_that_says_when_and_why(
    ending: outcome.Outcome, words: str
) -> None:
    with pytest.raises(Retry) as caught:
        conclude(ending)
    assert str(caught.value) == repr(caught.value) == words


def test_dead_fails_with_its_code() -> None:
    with pytest.raises(DeadStep, match="tool_failed: no such file"):
        conclude(outcome.Dead("tool_failed", "no such file"))


def toy_settings(folder: Path, **others: Any) -> dict[str, Any]:
    return {
        "journal": str(folder / "journal"),
        "broker": "amqp://127.0.0.1:1//",
        "prefix": "toy",
        "queues": ["toy.openai", "toy.tools"],
        "slots": 1,
        "heartbeat": 20,
        **others,
    }


@pytest.mark.parametrize(
    ("queues", "complaint"),
    [
        ("toy.openai,toy.tools", "one queue, got 2 (toy.openai, toy.tools)"),
        ("toy.opena1", "no such queue: ['toy.opena1']. There are: toy.openai, toy.tools"),
        (None, "one queue, got 2"),
    ],
)
def test_a_worker_that_is_not_for_one_queue_stops_with_78(
    tmp_path: Path, queues: str | None, complaint: str
) -> None:
    log = tmp_path / "log"
    arguments = ["-Q", queues] if queues else []
    process = start_toy(toy_settings(tmp_path), *arguments, log=log)
    assert process.wait(20) == 78
    assert complaint in log.read_text()


@pytest.mark.parametrize(
    ("error", "status"), [("ConfigurationError", 78), ("DependencyDown", 69)]
)
def test_a_worker_whose_runtime_cannot_open_says_so_and_stops(
    tmp_path: Path, error: str, status: int
) -> None:
    log = tmp_path / "log"
    settings = toy_settings(tmp_path, lifespan_raises=error)
    process = start_toy(settings, "-Q", "toy.openai", log=log)
    assert process.wait(20) == status
    assert "llmgine: the toy is broken\n" in log.read_text()
