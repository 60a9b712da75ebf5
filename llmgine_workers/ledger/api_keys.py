"""API keys as the ledger keeps them: whose, what for, a hash, and until when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from llmgine_workers.ledger.connection import Ledger

_COLUMNS = "id, tenant, scopes, hash, created_at, revoked_at"


@dataclass(frozen=True)
class ApiKey:
    """One row. `hash` is the SHA-256 of the key's whole text."""

    id: str
    tenant: str
    scopes: frozenset[str]
    hash: bytes
    created_at: datetime
    revoked_at: datetime | None


async def insert(
    ledger: Ledger, key_id: str, key_hash: bytes, tenant: str, scopes: Sequence[str]
) -> None:
    """Keep a new key; its text is nobody's business here."""
    async with ledger.connection() as connection:
        await connection.execute(
            "insert into api_keys (id, tenant, scopes, hash) values ($1, $2, $3, $4)",
            key_id, tenant, list(scopes), key_hash,
        )  # fmt: skip


async def found(ledger: Ledger, key_id: str) -> ApiKey | None:
    """The key with this id, revoked or not."""
    async with ledger.connection() as connection:
        row = await connection.fetchrow(
            f"select {_COLUMNS} from api_keys where id = $1", key_id
        )
    return _key(row) if row else None


async def listed(ledger: Ledger, tenant: str | None = None) -> list[ApiKey]:
    """All keys, or a tenant's, oldest first."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            f"select {_COLUMNS} from api_keys where $1::text is null or tenant = $1 "
            "order by created_at, id",
            tenant,
        )
    return [_key(row) for row in rows]


async def revoke(ledger: Ledger, key_id: str) -> bool:
    """The key stops working within the gateways' caches (5 s); False if there is none.

    Revoking again changes nothing.
    """
    async with ledger.connection() as connection:
        return bool(
            await connection.fetchval(
                "update api_keys set revoked_at = coalesce(revoked_at, now()) "
                "where id = $1 returning true",
                key_id,
            )
        )


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(**{**dict(row), "scopes": frozenset(row["scopes"])})
