"""What `<prefix>.dead` should hold, and whose turn it is to bring it there (row 18)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.letters import COLUMNS

# Also those that are not published yet: the queue lacks them just as well.
_FORGET_UNSEEN = """
update letters set mirrored_at = null
where state = 'open' and id < $2 and not id = any($1)
  and id in (select id from letters where state = 'open' order by id desc limit $3)
returning id
"""


async def states(ledger: Ledger, ids: Sequence[UUID]) -> dict[UUID, str]:
    """The states of the letters with these ids."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select id, state from letters where id = any($1)", list(ids)
        )
    return {row["id"]: row["state"] for row in rows}


async def has_unmirrored(ledger: Ledger) -> bool:
    """Whether an open letter has no copy in the broker."""
    async with ledger.connection() as connection:
        return bool(
            await connection.fetchval(
                "select exists (select from letters "
                "where state = 'open' and mirrored_at is null)"
            )
        )


async def take_unmirrored(ledger: Ledger, limit: int) -> list[dict[str, Any]]:
    """Open letters without a copy in the broker: marked as mirrored, to be published.

    A crash before that leaves them marked; the next rotate does not meet them then.
    """
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "update letters set mirrored_at = now() where id in (select id from letters "
            "where state = 'open' and mirrored_at is null order by id limit $1 "
            f"for update skip locked) returning {COLUMNS}",
            limit,
        )
    return [dict(row) for row in rows]


async def unmark(ledger: Ledger, ids: Sequence[UUID]) -> None:
    """Their copies were not confirmed by the broker."""
    async with ledger.connection() as connection:
        await connection.execute(
            "update letters set mirrored_at = null where id = any($1)", list(ids)
        )


async def count_mirrored(ledger: Ledger, most: int) -> int:
    """How many messages `<prefix>.dead`, which keeps the newest `most`, should hold."""
    async with ledger.connection() as connection:
        found = await connection.fetchval(
            "select count(*) from letters where state = 'open' "
            "and mirrored_at is not null"
        )
    return min(int(found), most)


async def forget_unseen(
    ledger: Ledger, seen: Sequence[UUID], before: UUID, most: int
) -> list[UUID]:
    """Open letters older than `before` that a whole rotate did not meet: to publish.

    Only the newest `most` are expected there.
    """
    async with ledger.connection() as connection:
        rows = await connection.fetch(_FORGET_UNSEEN, list(seen), before, most)
    return [row["id"] for row in rows]


async def forget_deliveries(ledger: Ledger, met: Sequence[bytes]) -> None:
    """Raw messages that a whole rotate did not meet have left: their keys may go."""
    async with ledger.connection() as connection:
        await connection.execute(
            "delete from raw_deliveries where not delivery = any($1)", list(met)
        )


async def set_dirty(ledger: Ledger, *, dirty: bool) -> None:
    """Whether `<prefix>.dead` may hold letters that are resolved by now."""
    async with ledger.connection() as connection:
        await connection.execute("update mirror set dirty = $1", dirty)


async def is_dirty(ledger: Ledger) -> bool:
    """Whether there may be something to take out of `<prefix>.dead`."""
    async with ledger.connection() as connection:
        return bool(await connection.fetchval("select dirty from mirror"))


@asynccontextmanager
async def turn(ledger: Ledger) -> AsyncIterator[bool]:
    """The one right to publish to or rotate the mirror; False while another has it.

    A turn whose process died ends after a minute; `keep_turn` makes it a minute again.
    """
    async with ledger.connection() as connection:
        has_it = bool(
            await connection.fetchval(
                "update mirror set rotating_until = now() + interval '1 minute' "
                "where coalesce(rotating_until, now()) <= now() returning true"
            )
        )
    try:
        yield has_it
    finally:
        if has_it:
            async with ledger.connection() as connection:
                await connection.execute("update mirror set rotating_until = null")


async def keep_turn(ledger: Ledger) -> None:
    """A long pass is still at work."""
    async with ledger.connection() as connection:
        await connection.execute(
            "update mirror set rotating_until = now() + interval '1 minute'"
        )
