"""What an installation needs before it runs: schema, topology, chains, a key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from chains import Chain, load_library, read_chains
from llmgine_workers.broker import declare
from llmgine_workers.cli.exits import Usage
from llmgine_workers.engine.registry import Chains
from llmgine_workers.keys import SCOPES, NewKey, new_key
from llmgine_workers.ledger import api_keys
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.settings import Settings

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


async def migrate(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Make schema and topology and push the chains; says what it did. Idempotent."""
    return [
        *await migrate_ledger(settings.ledger.url, settings),
        await migrate_broker(settings, environ),
    ]


async def migrate_ledger(url: str, settings: Settings) -> list[str]:
    """The part of it that needs PostgreSQL only, at that URL."""
    from llmgine_workers.ledger import migrate as schema  # Alembic loads slowly

    ledger = Ledger(url, settings.broker.prefix, connections=2)
    try:
        await schema.migrate(ledger)
        pushed = await push_chains(ledger, settings)
    finally:
        await ledger.close()
    return [
        f"ledger schema {settings.broker.prefix!r} is the newest",
        f"chains {', '.join(pushed)}",
    ]


async def migrate_broker(settings: Settings, environ: Mapping[str, str]) -> str:
    """The part of it that needs the broker only."""
    pools = settings.pools(environ)
    await declare.declare(settings.broker.url, settings.broker.prefix, pools)
    return f"broker queues for {', '.join(pools)}"


async def push_chains(ledger: Ledger, settings: Settings) -> list[str]:
    """Push the library, then the folders of the settings; names in that order.

    A folder's chain replaces the library's of the same name. InvalidChain.
    """
    found: dict[str, Chain] = load_library()
    for path in map(Path, settings.chains.paths):
        if path.is_dir():
            found |= read_chains(path)
    registry = Chains(ledger)
    for chain in found.values():
        await registry.push(chain)
    return sorted(found)


async def create_key(ledger: Ledger, tenant: str, scopes: Sequence[str]) -> NewKey:
    """Make a key and keep its hash; its text exists only in the answer.

    Usage if tenant or scopes make no sense.
    """
    if not _TENANT.fullmatch(tenant):
        raise Usage(f"--tenant {tenant[:60]!r}: letters, digits, dot, dash, underscore")
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise Usage(f"no scope {', '.join(unknown)}; there are {' '.join(SCOPES)}")
    key = new_key()
    await api_keys.insert(ledger, key.id, key.hash, tenant, sorted(set(scopes)))
    return key
