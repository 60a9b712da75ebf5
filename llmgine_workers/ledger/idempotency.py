"""Idempotency keys: the same request again answers what the first one made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from llmgine_workers.ledger.connection import Connection, Ledger

KEPT = timedelta(hours=24)
"""A key is free again after so long, but never while its job or batch is unfinished."""


def lock_of(tenant: str, key: str) -> str:
    """SQL for the advisory lock that whoever binds a key holds until its commit."""
    return f"hashtextextended({tenant} || ' ' || {key}, 0)"


_LOCK = f"select pg_advisory_xact_lock({lock_of('$1::text', '$2::text')})"

_TAKE = """
insert into idempotency (tenant, key, body_hash, job_id, batch)
values ($1, $2, $3, case when $5 then null else $4::uuid end, case when $5 then $4 end)
on conflict do nothing returning true
"""

_FOUND = """
select coalesce(i.job_id, i.batch) as made, i.body_hash,
       i.created_at < now() - $3::interval
       and not exists (select from jobs where id = i.job_id and state = 'active')
       and not exists (select from jobs where batch = i.batch and state = 'active')
       as is_free
from idempotency i where i.tenant = $1 and i.key = $2
"""

_RETAKE = """
update idempotency set body_hash = $3, created_at = now(),
    job_id = case when $5 then null else $4::uuid end, batch = case when $5 then $4 end
where tenant = $1 and key = $2
"""


@dataclass(frozen=True)
class Key:
    """An `Idempotency-Key` of a tenant with the hash of its request's body."""

    tenant: str
    key: str
    body_hash: bytes


class KeyTaken(Exception):
    """A key was used before: `made` is its job or batch, `body_hash` its body's."""

    def __init__(self, made: UUID, body_hash: bytes) -> None:
        super().__init__(str(made))
        self.made = made
        self.body_hash = body_hash


async def take(connection: Connection, key: Key, made: UUID, *, is_batch: bool) -> None:
    """Bind a key to what is being made with it; KeyTaken if it is bound already.

    A second transaction with the same key waits here for the first one to end.
    """
    await connection.execute(_LOCK, key.tenant, key.key)
    values = (key.tenant, key.key, key.body_hash, made, is_batch)
    if await connection.fetchval(_TAKE, *values):
        return
    row = await connection.fetchrow(_FOUND + "for update", key.tenant, key.key, KEPT)
    assert row is not None  # noqa: S101 - only prune deletes, a day later
    if not row["is_free"]:
        raise KeyTaken(row["made"], row["body_hash"])
    await connection.execute(_RETAKE, *values)


async def found(ledger: Ledger, tenant: str, key: str) -> KeyTaken | None:
    """What a key is bound to, if it is."""
    async with ledger.connection() as connection:
        row = await connection.fetchrow(_FOUND, tenant, key, KEPT)
    if row is None or row["is_free"]:
        return None
    return KeyTaken(row["made"], row["body_hash"])
