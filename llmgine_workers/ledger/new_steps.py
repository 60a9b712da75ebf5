"""New steps as rows: the one way they are written, by a submit or by a finish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias
from uuid import UUID

import orjson

from llmgine_workers.ledger.records import NewStep

Owner: TypeAlias = tuple[UUID, str, int]
"""Whose a step is: job, tenant and class."""

_TYPES = {
    "job_id": "uuid", "tenant": "text", "class": "int", "path": "text", "state": "text",
    "kind": "text", "pool": "text", "request": "text", "timeout_s": "float8",
    "max_attempts": "int", "model": "text", "models": "text", "why": "text",
    "tokens_in": "int", "tokens_out": "int", "released": "bool", "keyed": "bool",
}  # fmt: skip

WIDTH = len(_TYPES)

INSERT = """
    insert into steps (job_id, path, kind, pool, tenant, class, state, released_at,
                       max_attempts, timeout_s, model, models, why, tokens_in, tokens_out,
                       finished_at, wake_at, waiting_since, reason, detail)
    select job_id, path, kind, pool, tenant, class, state,
           case when released then now() end, max_attempts, timeout_s, model,
           array(select jsonb_array_elements_text(models::jsonb)), why, tokens_in,
           tokens_out,
           case when state = 'skipped' then now() end, waits.until, waits.since,
           waits.reason, waits.detail
    from new_step left join lateral (
        select now() + timeout_s * interval '1 second' as until, now() as since,
               'timer' as reason, 'the chain waits here' as detail
    ) waits on state = 'waiting'
"""
"""From `new_step`; a `where` may follow."""

REQUESTS = (
    "select job_id, path, 'request', request from new_step where request is not null"
)
"""Rows for `payloads`."""


def new_step(first: int) -> str:
    """The CTE of the rows, whose arrays begin with that parameter."""
    arrays = (f"${first + n}::{kind}[]" for n, kind in enumerate(_TYPES.values()))
    names = ", ".join(_TYPES)
    return f"new_step as (select * from unnest({', '.join(arrays)}) as new ({names}))"


def queued(
    owner: Owner, step: NewStep, *, released: bool, keyed: bool = False
) -> tuple[Any, ...]:
    """A step to be done, or to wait. `keyed`: if its job's key turns out to be free."""
    state = "waiting" if step.kind == "wait" else "queued"
    return (
        *owner, step.path, state, step.kind, step.pool, step.request, step.timeout_s,
        step.max_attempts, step.model, orjson.dumps(step.models).decode(), step.why,
        step.tokens_in, step.tokens_out, released, keyed,
    )  # fmt: skip


def skipped(
    owner: Owner, path: str, kind: str, *, keyed: bool = False
) -> tuple[Any, ...]:
    """A step that `plan()` passed over."""
    return (
        *owner, path, "skipped", kind, "", None, 1, 1, None, "[]", None,
        0, 0, False, keyed,
    )  # fmt: skip


def columns(width: int, rows: Iterable[tuple[Any, ...]]) -> list[Sequence[Any]]:
    """Rows as so many arrays, for `unnest`."""
    return list(zip(*rows, strict=True)) or [()] * width
