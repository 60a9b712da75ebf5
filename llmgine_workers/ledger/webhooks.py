"""Webhooks that are owed: found when due, leased while one is sent, logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from llmgine_workers.ledger.connection import Ledger

LEASE_S = 60
"""A delivery whose sender died is tried again after so long."""
LOGGED = 20
"""Tries kept in a webhook's log, the newest."""

# Leased and not locked: a receiver may take its time, a transaction may not.
_TAKE = """
with due as (
    select job_id, run from webhooks where state = 'pending' and next_at <= now()
    order by next_at limit $1 for update skip locked
)
update webhooks w set tries = tries + 1, next_at = now() + $2 * interval '1 second'
from due where w.job_id = due.job_id and w.run = due.run
returning w.job_id as job, w.run, w.tenant, w.url, w.tries, w.created_at
"""

_DELIVERED = """
update webhooks set state = 'delivered', finished_at = now(), log = {log}
where job_id = $1 and run = $2
"""
_AGAIN = """
update webhooks set log = {log}, next_at = now() + $4 * interval '1 second',
    state = case when now() + $4 * interval '1 second' > give_up_at
                 then 'failed' else 'pending' end,
    finished_at = case when now() + $4 * interval '1 second' > give_up_at
                       then now() end
where job_id = $1 and run = $2 and state = 'pending'
"""
_LOG = f"""
(select coalesce(jsonb_agg(entry order by place), '[]') from (
    select entry, place from jsonb_array_elements(log || jsonb_build_array($3::jsonb))
    with ordinality as tried (entry, place) order by place desc limit {LOGGED}) newest)
"""

_REDELIVER = """
update webhooks set state = 'pending', next_at = now(), finished_at = null,
    give_up_at = now() + interval '24 hours'
where job_id = $1 and run = (select max(run) from webhooks where job_id = $1)
    and ($2::text is null or tenant = $2)
returning true
"""


@dataclass(frozen=True)
class Owed:
    """A webhook whose turn it is."""

    job: UUID
    run: int
    tenant: str
    url: str
    tries: int
    created_at: datetime

    @property
    def id(self) -> str:
        """The message's id, the same at every try."""
        return f"msg_{self.job.hex}_{self.run}"


async def take_due(ledger: Ledger, limit: int) -> list[Owed]:
    """Those that are due, leased for `LEASE_S`."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(_TAKE, limit, LEASE_S)
    return [Owed(**row) for row in rows]


async def delivered(ledger: Ledger, one: Owed, tried: Mapping[str, Any]) -> None:
    """It was taken."""
    async with ledger.connection() as connection:
        statement = _DELIVERED.format(log=_LOG)
        await connection.execute(statement, one.job, one.run, dict(tried))


async def again(
    ledger: Ledger, one: Owed, tried: Mapping[str, Any], delay_s: float
) -> None:
    """It was not: once more after that delay, unless its day is over by then."""
    async with ledger.connection() as connection:
        statement = _AGAIN.format(log=_LOG)
        await connection.execute(statement, one.job, one.run, dict(tried), delay_s)


async def redeliver(ledger: Ledger, job: UUID, tenant: str | None) -> bool:
    """Send the newest one again, for another day; False if the job has none."""
    async with ledger.connection() as connection:
        return bool(await connection.fetchval(_REDELIVER, job, tenant))


async def of_job(ledger: Ledger, job: UUID, tenant: str | None) -> list[asyncpg.Record]:
    """Every webhook of a job, one per run, the newest first."""
    async with ledger.connection() as connection:
        return list(
            await connection.fetch(
                "select * from webhooks where job_id = $1 "
                "and ($2::text is null or tenant = $2) order by run desc",
                job, tenant,
            )
        )  # fmt: skip
