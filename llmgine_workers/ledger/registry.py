"""The chain registry: immutable versions by hash, and a head per name."""

from __future__ import annotations

from collections.abc import Sequence

from llmgine_workers.ledger.connection import Connection, Ledger


async def store(ledger: Ledger, chains: Sequence[tuple[str, str, str]]) -> None:
    """Keep names, versions and their JSON; storing them again changes nothing."""
    async with ledger.connection() as connection:
        await keep(connection, chains)


async def keep(connection: Connection, chains: Sequence[tuple[str, str, str]]) -> None:
    """The same as part of a transaction."""
    # In one order everywhere, or two transactions may wait for each other's rows.
    columns = zip(*sorted(chains, key=lambda chain: chain[1]), strict=True)
    await connection.execute(
        "insert into chains (name, version, body) "
        "select * from unnest($1::text[], $2::text[], $3::text[]) "
        "on conflict do nothing",
        *map(list, columns),
    )


async def store_each(
    ledger: Ledger, several: Sequence[Sequence[tuple[str, str, str]]]
) -> list[None]:
    """The chains of several submits in one statement."""
    unique = {chain[1]: chain for chains in several for chain in chains}
    await store(ledger, list(unique.values()))
    return [None] * len(several)


async def push(ledger: Ledger, name: str, version: str, body: str) -> None:
    """Store a version and make it what the name means from now on."""
    await store(ledger, [(name, version, body)])
    async with ledger.connection() as connection:
        await connection.execute(
            "insert into chain_heads (name, version) values ($1, $2) "
            "on conflict (name) do update set version = $2, pushed_at = now() "
            "where chain_heads.version <> $2",
            name, version,
        )  # fmt: skip


async def heads(ledger: Ledger, names: Sequence[str]) -> list[str | None]:
    """The versions that names mean now."""
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select name, version from chain_heads where name = any($1)", list(names)
        )
    versions = {row["name"]: str(row["version"]) for row in rows}
    return [versions.get(name) for name in names]


async def body(connection: Connection, version: str) -> str | None:
    """A version's definition as JSON."""
    found = await connection.fetchval(
        "select body from chains where version = $1", version
    )
    return str(found) if found else None


async def names(ledger: Ledger) -> list[str]:
    """Every name in the registry."""
    async with ledger.connection() as connection:
        rows = await connection.fetch("select name from chain_heads order by name")
    return [row["name"] for row in rows]
