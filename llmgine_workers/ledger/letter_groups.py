"""Letters that say the same, as one row: how many, since when, and one of them."""

from __future__ import annotations

from typing import Any

from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.letters import Wanted


async def listed(ledger: Ledger, wanted: Wanted, limit: int) -> list[dict[str, Any]]:
    """Groups by their last letter, newest first; `sample` is that letter.

    A group is read off its letters, so one that was ignored or resolved as a whole is
    there again as soon as a new letter comes.
    """
    condition, values = wanted.where()
    last = len(values) + 1
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            f"""
            with groups as (
                select fingerprint, count(*) as count, min(created_at) as first_seen,
                       max(created_at) as last_seen
                from letters where {condition} group by fingerprint
                order by max(created_at) desc, fingerprint limit ${last}
            )
            select groups.*, l.id as sample, l.state, l.chain, l.step, l.pool, l.code,
                   l.error ->> 'message' as message
            from groups cross join lateral (
                select * from letters where fingerprint = groups.fingerprint
                and {condition} order by id desc limit 1) l
            order by last_seen desc, fingerprint
            """,
            *values, limit,
        )  # fmt: skip
    return [dict(row) for row in rows]
