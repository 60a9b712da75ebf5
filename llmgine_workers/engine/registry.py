"""Chains as the engine runs them: parsed once per version and kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from chains import Chain, canonical, from_canonical, read_chains, version_of
from llmgine_workers.ledger import registry
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.gather import Gatherer

KEPT = 512
"""Parsed chains in memory."""


class Chains:
    """The registry, with the versions this process has met in memory."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: OrderedDict[str, Chain] = OrderedDict()
        self._head = Gatherer(partial(registry.heads, ledger))
        self._store = Gatherer(partial(registry.store_each, ledger))

    async def named(self, reference: str) -> tuple[Chain, str] | None:
        """The chain and version behind `name` or `name@sha256:...`."""
        name, at, version = reference.partition("@")
        if not at:
            version = await self._head(name) or ""
        chain = self._known.get(version)
        if chain is None and version:
            async with self._ledger.connection() as connection:
                chain = await self.of(connection, version)
        return (chain, version) if chain and chain.name == name else None

    async def of(self, connection: Connection, version: str) -> Chain | None:
        """The chain of a version.

        Read on the connection that its job is locked on: to wait for a second one
        while holding the first is how a pool of connections locks itself up.
        """
        if version not in self._known:
            body = await registry.body(connection, version)
            if body is None:
                return None
            self._remember(version, from_canonical(orjson.loads(body)))
        self._known.move_to_end(version)
        return self._known[version]

    async def store(self, chains: Mapping[str, Chain]) -> None:
        """Keep chains that came with jobs, by their versions."""
        fresh = {v: chain for v, chain in chains.items() if v not in self._known}
        for version in chains.keys() - fresh.keys():
            self._known.move_to_end(version)
        if fresh:
            rows = [(chain.name, v, _body(chain)) for v, chain in fresh.items()]
            await self._store(rows)
        for version, chain in fresh.items():
            self._remember(version, chain)

    async def keep(self, connection: Connection, chain: Chain) -> None:
        """Store one chain as part of a transaction, without a name that means it."""
        version = version_of(chain)
        await registry.keep(connection, [(chain.name, version, _body(chain))])

    async def push(self, chain: Chain) -> str:
        """Make a chain what its name means; answers its version."""
        version = version_of(chain)
        await registry.push(self._ledger, chain.name, version, _body(chain))
        self._remember(version, chain)
        return version

    async def push_folder(self, folder: Path) -> list[str]:
        """Push every `.yaml` of a folder; InvalidChain says where one is wrong."""
        found = await asyncio.to_thread(read_chains, folder)
        for chain in found.values():
            await self.push(chain)
        return list(found)

    def _remember(self, version: str, chain: Chain) -> None:
        self._known[version] = chain
        self._known.move_to_end(version)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)


def _body(chain: Chain) -> str:
    definition: dict[str, Any] = canonical(chain)
    return orjson.dumps(definition).decode()
