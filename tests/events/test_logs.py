"""A log line names ids, states and codes, and never what was said."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

import pytest

from llmgine_workers.clock import uuid7
from llmgine_workers.errors import Failure
from llmgine_workers.events.facts import (
    GateClosed,
    JobQueued,
    LetterRecorded,
    LimitRefused,
    StepDelta,
    StepFinished,
    StepWaiting,
)
from llmgine_workers.events.logs import LogLines
from llmgine_workers.llm import Usage

JOB = uuid7()
SECRET = "the patient's name"
FAILURE = Failure("provider_rejected", SECRET, status=400, request_id="req_8f")
FACTS = [
    JobQueued(JOB, {"name": "c", "note": SECRET}, {"order": SECRET}),
    StepFinished(JOB, "draft", "failed", SECRET, SECRET, "openai/m", Usage(1, 5), 0.5),
    StepFinished(JOB, "draft", "failed", error=FAILURE),
    StepWaiting(JOB, "draft", {"detail": SECRET}),
    LetterRecorded(uuid7(), JOB, "draft", "provider_rejected"),
    GateClosed("openai", "breaker", 15.0),
]


async def lines_of(style: Literal["json", "console"]) -> list[str]:
    written: list[str] = []
    log = LogLines(style, written.append)
    for fact in FACTS:
        await log.handle([fact])
    await log.close()
    (together,) = written
    return together.split("\n")


async def test_json_lines_hold_ids_states_and_codes() -> None:
    found = [json.loads(line) for line in await lines_of("json")]
    assert [line["event"] for line in found] == [fact.type for fact in FACTS]
    assert found[0]["job"] == str(JOB)
    assert found[1]["cost_usd"] == 0.5
    assert found[1]["usage"] == {"input_tokens": 5, "output_tokens": 0}
    assert found[2]["error"]["code"] == "provider_rejected"
    assert found[2]["error"]["request_id"] == "req_8f"
    assert found[5]["seconds"] == 15.0


async def test_console_lines_are_one_line_each() -> None:
    lines = await lines_of("console")
    assert "step.finished" in lines[2]
    assert "provider_rejected" in lines[2]
    assert len(lines) == len(FACTS)


@pytest.mark.parametrize("style", ["json", "console"])
async def test_nothing_that_was_said_is_logged(
    style: Literal["json", "console"],
) -> None:
    assert not any(SECRET in line for line in await lines_of(style))


def test_what_comes_many_times_a_second_is_not_logged() -> None:
    lines = LogLines("json")
    assert not lines.wants(StepDelta)
    assert not lines.wants(LimitRefused)
    assert lines.wants(StepFinished)


async def test_lines_are_written_in_a_moment_without_being_asked_for() -> None:
    written: asyncio.Queue[str] = asyncio.Queue()
    log = LogLines("json", written.put_nowait)
    for _ in range(2):
        await log.handle(FACTS[:1])
        async with asyncio.timeout(5):
            assert json.loads(await written.get())["event"] == "job.queued"
    await log.close()
    assert written.empty()
