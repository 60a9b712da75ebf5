"""Public facts have exactly the fields that the interface lists."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest

from llmgine_workers.errors import Failure
from llmgine_workers.events import facts
from llmgine_workers.events.facts import Fact, JobFact, as_public
from llmgine_workers.llm import Usage

JOB = UUID("0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11")
AT = datetime(2026, 11, 20, 12, 0, 1, 250_000, tzinfo=UTC)
WAITING = {"reason": "limit", "detail": "used up", "since": "...", "until": "..."}
USAGE = Usage(1, 10, 0, 20, 0)
FAILURE = Failure("stream_cut", "it stopped")

PUBLIC: list[tuple[JobFact, str]] = [
    (facts.JobQueued(JOB, {"name": "summarize"}, {}), "chain metadata"),
    (facts.StepQueued(JOB, "draft", "llm", "openai"), "step kind pool"),
    (facts.StepStarted(JOB, "draft", 1, "openai/m"), "step attempt model"),
    (facts.StepWaiting(JOB, "draft", WAITING), "step waiting"),
    (facts.StepDelta(JOB, "draft", 1, text="Prices"), "step attempt text"),
    (facts.StepDelta(JOB, "draft", 1, reasoning="Hm"), "step attempt reasoning"),
    (facts.StepDelta(JOB, "draft", 1, tool_call={"i": 0}), "step attempt tool_call"),
    (facts.StepRestarted(JOB, "draft", 2, "stream_cut"), "step attempt reason"),
    (
        facts.StepFinished(JOB, "draft", "succeeded", "x", "x", "openai/m", USAGE, 0.1),
        "step state output text model usage cost_usd error",
    ),
    (
        facts.JobFinished(JOB, "failed", error=FAILURE, dead_letter=JOB),
        "state output error usage cost_usd dead_letter",
    ),
    (facts.JobReplayed(JOB, "draft", JOB), "step replay"),
    (facts.StreamSnapshot(JOB, {"job": {}}), "snapshot"),
]


@pytest.mark.parametrize(("fact", "fields"), PUBLIC, ids=lambda value: str(value)[:40])
def test_a_public_fact_has_its_fields_and_no_other(fact: JobFact, fields: str) -> None:
    public = as_public(fact, 7)
    assert set(public) == {"type", "seq", "job", "at", *fields.split()}
    assert orjson.loads(orjson.dumps(public)) == public


def test_values_look_as_the_interface_writes_them() -> None:
    delta = facts.StepDelta(JOB, "draft", 1, text="Prices rose", at=AT)
    assert as_public(delta, 7) == {
        "type": "step.delta",
        "seq": 7,
        "job": str(JOB),
        "at": "2026-11-20T12:00:01.250Z",
        "step": "draft",
        "attempt": 1,
        "text": "Prices rose",
    }
    finished = as_public(facts.JobFinished(JOB, "failed", None, FAILURE, USAGE), 8)
    assert finished["error"] == FAILURE.as_dict()
    assert finished["usage"]["output_tokens"] == 20
    assert finished["cost_usd"] is None


def test_the_list_of_facts_is_the_interfaces() -> None:
    def kinds(of: type[Fact]) -> set[str]:
        own = {of.type} if "type" in vars(of) else set()
        return own.union(*(kinds(sub) for sub in of.__subclasses__()))

    public = """job.queued step.queued step.started step.waiting step.delta
        step.restarted step.finished job.finished job.replayed stream.snapshot"""
    internal = """attempt.started attempt.finished step.claimed step.released
        step.failed_over
        limit.refused limit.overshot limits.local limits.shared
        budget.used gate.closed gate.opened lease.lost publish.failed
        letter.recorded letter.resolved replay.progress worker.started worker.draining
        worker.stopped"""
    assert kinds(JobFact) == set(public.split())
    assert kinds(Fact) == set(public.split()) | set(internal.split())
