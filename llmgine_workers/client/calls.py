"""Requests to the gateway as values: what is asked, before anybody sends it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict
from urllib.parse import quote
from uuid import uuid4

import httpx2

from llmgine_workers.client.shapes import Job, rfc3339

CONNECT_S = 10.0
READ_S = 30.0
"""How long a gateway may be silent before its answer counts as lost."""
MAX_PAGE = 200

JobRef = str | Job
"""A job, or its id."""

_KEY = re.compile(r"[\x20-\x7e]{1,255}")


class More(TypedDict, total=False):
    """What a job may be given beside a chain and its inputs.

    `tool` with `arguments` stands in place of `chain` with `inputs`. `timeout`, seconds
    or a text like "10m", bounds the whole job. What is left out is the gateway's default.
    """

    tool: str
    arguments: Mapping[str, Any]
    metadata: Mapping[str, str]
    priority: str
    timeout: float | str
    max_attempts: int
    max_cost_usd: float
    stream: bool


class Work(More, total=False):
    """One job of `submit_many`: the arguments of `submit` as a dictionary."""

    chain: str | Mapping[str, Any]
    inputs: Mapping[str, Any]


class Wanted(TypedDict, total=False):
    """Which jobs a list is to have; what is left out narrows nothing."""

    state: str
    chain: str
    batch: str
    metadata: Mapping[str, str]
    created_after: datetime


_OPTIONS = ("priority", "timeout", "max_attempts", "max_cost_usd", "stream")
_FIELDS = ("chain", "inputs", "tool", "arguments", "metadata")


class Sent(TypedDict):
    """The arguments of a request, or of an event stream, of both kinds of client."""

    method: str
    url: str
    params: dict[str, str]
    headers: dict[str, str]
    content: bytes | None
    timeout: httpx2.Timeout


@dataclass(frozen=True)
class Call:
    """One request; it is sent after `pause_s`."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    read_s: float = READ_S
    pause_s: float = 0.0

    @property
    def is_held(self) -> bool:
        """Whether the gateway may hold the answer back."""
        return self.read_s > READ_S

    def sent(self) -> Sent:
        """As httpx2 takes it."""
        return {
            "method": self.method,
            "url": self.path,
            "params": dict(self.params),
            "headers": dict(self.headers),
            "content": self.content,
            # `pool`: a call's turn comes, however many are before it.
            "timeout": httpx2.Timeout(CONNECT_S, read=self.read_s, pool=None),
        }


def get(path: str, *, wait_s: float = 0.0) -> Call:
    """Reads something; the gateway may hold the answer back for `wait_s`."""
    return Call("GET", path, _waiting(wait_s), read_s=READ_S + wait_s)


def post(
    path: str, body: Any = None, *, key: str | None = None, wait_s: float = 0.0
) -> Call:
    """Asks for something once, however often it is sent: key and bytes stay the same."""
    headers = {"Idempotency-Key": _checked(key) if key is not None else str(uuid4())}
    content = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
        content = text.encode()
    return Call("POST", path, _waiting(wait_s), headers, content, READ_S + wait_s)


def submission(work: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a job to be. TypeError for a name that is none of `Work`'s."""
    unknown = sorted(set(work) - {*_FIELDS, *_OPTIONS})
    if unknown:
        raise TypeError(f"a job has no {', '.join(unknown)}")
    given = {name: value for name, value in work.items() if value is not None}
    body = {name: given[name] for name in _FIELDS if name in given}
    options = {name: given[name] for name in _OPTIONS if name in given}
    if isinstance(options.get("timeout"), int | float):
        options["timeout"] = f"{round(options['timeout'] * 1000)}ms"
    return {**body, "options": options} if options else body


def batch(jobs: Iterable[Work]) -> dict[str, Any]:
    """The body of a batch to be."""
    return {"jobs": [submission(work) for work in jobs]}


def filters(wanted: Wanted) -> dict[str, str]:
    """The query of a list of jobs. ValueError for a moment without a time zone."""
    query: dict[str, str] = {}
    for name, value in wanted.items():
        if isinstance(value, datetime):
            query[name] = rfc3339(value)
        elif isinstance(value, Mapping):
            query |= {f"{name}.{key}": str(text) for key, text in value.items()}
        elif value is not None:
            query[name] = str(value)
    return query


def job_path(job: JobRef, *more: str) -> str:
    """The address of a job, or of something below it."""
    named = job.id if isinstance(job, Job) else job
    return "/".join(("/v1/jobs", *(quote(part, safe="") for part in (named, *more))))


def batch_path(batch_id: str) -> str:
    """The address of a batch."""
    return f"/v1/batches/{quote(batch_id, safe='')}"


def _waiting(wait_s: float) -> dict[str, str]:
    return {"wait": f"{wait_s:.3f}"} if wait_s else {}


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError("an idempotency key has 1 to 255 printable ASCII characters")
    return key
