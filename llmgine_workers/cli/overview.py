"""What `llmgine status` tells: pools, open letters, and which store is down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llmgine_workers.broker.topology import dead_queue
from llmgine_workers.cli import stores
from llmgine_workers.cli.terminal import masked
from llmgine_workers.errors import DependencyDown
from llmgine_workers.ledger import overview, schema
from llmgine_workers.runtime import Runtime
from llmgine_workers.settings import Settings


async def of(settings: Settings, environ: Mapping[str, str]) -> dict[str, Any]:
    """The answer as JSON; what is down is named, never raised.

    ConfigurationError if the schema is not the newest.
    """
    async with stores.opened(settings, environ) as rt:
        return await _seen(rt)


async def _seen(rt: Runtime) -> dict[str, Any]:
    down: dict[str, str] = {}
    found: dict[str, Any] = {"pools": [], "dead_letters": None, "down": down}
    try:
        await schema.verify(rt.ledger)
        found["pools"] = [asdict(load) for load in await overview.pool_loads(rt.ledger)]
        found["dead_letters"] = await overview.open_letters(rt.ledger)
    except DependencyDown as error:
        down["ledger"] = masked(str(error))
    found["dead_queue"] = await rt.broker.depth(dead_queue(rt.prefix))
    if found["dead_queue"] is None:
        down["broker"] = f"{masked(rt.settings.broker.url)} does not answer"
    try:
        await rt.ephemeral.command("PING")
    except DependencyDown as error:
        down["redis"] = masked(str(error))
    return found
