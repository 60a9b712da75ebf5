"""What the rest of the program hands to the ledger and gets from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from llmgine_workers.errors import Failure
from llmgine_workers.llm import Usage

CLASSES = ("interactive", "normal", "batch")
"""Priorities by name; the ledger stores and orders by the index."""


@dataclass(frozen=True)
class StepKey:
    """A step's address: its job and its path."""

    job: UUID
    path: str


@dataclass(frozen=True)
class NewStep:
    """A step that `plan()` found ready. `request` is JSON, already rendered.

    Tokens are upper bounds of its call: what it weighs in its tenant's turn.
    """

    path: str
    kind: str
    pool: str
    request: str
    timeout_s: float
    max_attempts: int
    model: str | None = None
    why: str | None = None
    models: tuple[str, ...] = ()
    tokens_in: int = 1
    tokens_out: int = 0


@dataclass(frozen=True)
class NewJob:
    """Everything a submit writes in one transaction. `inputs` is JSON, and so is the
    `output` of a job that has nothing to do; `skipped` are paths and kinds."""

    id: UUID
    tenant: str
    chain_version: str
    chain_name: str
    priority: int
    stream: bool
    simulated: bool
    max_attempts: int
    timeout_s: float
    max_cost: int | None
    metadata: Mapping[str, str]
    steps_total: int
    inputs: str
    steps: tuple[NewStep, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    output: str | None = None
    batch: UUID | None = None
    webhook: str | None = None


@dataclass(frozen=True)
class Released:
    """A step the broker should be told of."""

    key: StepKey
    pool: str
    chain: str
    run: int


@dataclass(frozen=True)
class Hinted:
    """A step as a hint finds it, with all that its call needs. `request` is JSON."""

    key: StepKey
    runnable: bool
    kind: str
    pool: str
    tenant: str
    priority: int
    chain: str
    run: int
    stream: bool
    request: str
    model: str | None
    timeout_s: float
    tries: int
    crashes: int
    max_attempts: int
    expires_at: datetime
    has_budget: bool
    given_up: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """The right to make one call: every later write must carry its fence."""

    key: StepKey
    fence: int
    attempt: UUID
    n: int


@dataclass(frozen=True)
class Billed:
    """What one attempt used. Costs are micro-dollars; None is unknown."""

    usage: Usage = field(default_factory=Usage)
    cost: int | None = 0
    price_version: str | None = None
    status: int | None = None
    request_id: str | None = None
    first_token_at: datetime | None = None


@dataclass(frozen=True)
class Finish:
    """The end of a running step. `output` is JSON, clean and within the size limit."""

    claim: Claim
    state: str
    billed: Billed
    output: str | None = None
    finish_reason: str | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class LockedJob:
    """A job while its row is locked."""

    id: UUID
    tenant: str
    state: str
    ending: str | None
    run: int
    chain_version: str
    chain_name: str
    max_attempts: int
    priority: int
    stream: bool
    metadata: Mapping[str, Any]
