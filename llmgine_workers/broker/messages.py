"""Messages (interface, section 8): hints, letters, and what was dead-lettered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from llmgine_workers import clock

STEP_TASK = "llmgine.step"
LETTER_TYPE = "llmgine.letter"
"""The AMQP `type` of a letter; only such a message's id is a letter's id."""

RAW_LIMIT = 64 * 1024
"""Bytes of an unreadable message that are looked at and kept (interface, section 5)."""


@dataclass(frozen=True, eq=False, slots=True)
class Message:
    """A persistent message; equal only to itself, so duplicates can be told apart."""

    id: str
    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    type: str | None = None
    correlation_id: str | None = None
    content_type: str | None = "application/json"
    content_encoding: str | None = "utf-8"


@dataclass(frozen=True, eq=False, slots=True)
class DeadMessage:
    """A message found in `<prefix>.dead`; `body` is cut at `RAW_LIMIT`.

    `letter_id` is None for what we did not publish: messages that a worker rejected or
    that hit the delivery limit.
    """

    letter_id: UUID | None
    headers: Mapping[str, Any]
    body: bytes

    @property
    def reason(self) -> str | None:
        """Why the broker dead-lettered it, as `rejected from llmgine.openai`."""
        deaths = self.headers.get("x-death")
        if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], dict):
            return None
        return f"{deaths[0].get('reason')} from {deaths[0].get('queue')}"


def hint(job: UUID, path: str, replays: int, chain: str) -> Message:
    """Look at job J, step P: in Celery's form, sent by anyone, any number of times.

    Its id follows from (job, path, replays), so waits and retries stay one row in Flower.
    """
    task_id = str(clock.task_id(job, path, replays))
    headers = {
        "lang": "py",
        "task": STEP_TASK,
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "shadow": f"{chain}/{_step_name(path)}",
        "argsrepr": f"{chain} {path} {job}",
        "kwargsrepr": "{}",
        "origin": "llmgine",
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "ignore_result": True,
    }
    body = orjson.dumps([[str(job), path], {}, {}])
    return Message(task_id, body, headers, correlation_id=task_id)


def _step_name(path: str) -> str:
    """Without the numbers of map items and loop turns: it becomes a metrics label."""
    return ".".join(part for part in path.split(".") if not part.isdigit())


def letter(letter_id: UUID, body: Mapping[str, Any]) -> Message:
    """The mirrored copy of a dead letter; `body` is JSON, without payloads."""
    return Message(str(letter_id), orjson.dumps(body), {}, LETTER_TYPE)


def dead(message: Message) -> DeadMessage:
    """A message of `<prefix>.dead`, as a judge sees it."""
    letter_id = _uuid(message.id) if message.type == LETTER_TYPE else None
    return DeadMessage(letter_id, message.headers, message.body[:RAW_LIMIT])


def is_hint(message: DeadMessage) -> bool:
    """Whether it is a readable hint, which the ledger publishes again if it matters."""
    if message.headers.get("task") != STEP_TASK:
        return False
    try:
        match orjson.loads(message.body):
            case [[str(job), str()], *_]:
                return _uuid(job) is not None
    except orjson.JSONDecodeError:
        pass
    return False


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
