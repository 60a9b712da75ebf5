"""When everything of a stack answers: asked of each, as its clients would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import httpx2

from llmgine_workers.cli.children import Children
from llmgine_workers.errors import DependencyDown
from llmgine_workers.ledger import overview
from llmgine_workers.ledger.connection import Ledger

if TYPE_CHECKING:
    from llmgine_workers.cli.stack import Stack

PATIENCE_S = 90.0
"""A cold machine compiles every module once; seen: 12 s warm on two cores."""

_POLL_S = 0.1


async def wait(stack: Stack, children: Children) -> None:
    """Return when all is ready. DependencyDown names what is not."""
    ledger = Ledger(
        stack.settings.ledger.url, stack.settings.broker.prefix, connections=2
    )
    try:
        async with httpx2.AsyncClient(trust_env=False, timeout=2) as client:
            await _all(_probes(stack, client, ledger), children)
    finally:
        await ledger.close()


Probe = Callable[[], Awaitable[bool]]


def _probes(stack: Stack, client: httpx2.AsyncClient, ledger: Ledger) -> dict[str, Probe]:
    probes: dict[str, Probe] = {
        "gateway": partial(_answers, client, f"{stack.url}/readyz"),
        "flower": partial(_answers, client, f"{stack.flower_url}/healthcheck"),
        "workers": partial(_workers, ledger, stack.settings.pools(stack.child_environ)),
    }
    if stack.simulated:
        address = f"{stack.simulator_url}/v1/models"
        probes["simulate"] = partial(_answers, client, address)
    return probes


async def _all(probes: dict[str, Probe], children: Children) -> None:
    end = time.monotonic() + PATIENCE_S
    while probes:
        children.look()
        children.refuse_hopeless()
        answers = await asyncio.gather(*(probe() for probe in probes.values()))
        ready = [name for name, yes in zip(probes, answers, strict=True) if yes]
        probes = {name: probes[name] for name in probes if name not in ready}
        if time.monotonic() > end:
            raise DependencyDown(f"{', '.join(probes)} not ready after {PATIENCE_S:g} s")
        await asyncio.sleep(_POLL_S)


async def _answers(client: httpx2.AsyncClient, url: str) -> bool:
    try:
        response = await client.get(url)
    except httpx2.TransportError:
        return False
    return response.is_success


async def _workers(ledger: Ledger, pools: tuple[str, ...]) -> bool:
    live = {load.pool for load in await overview.pool_loads(ledger) if load.workers}
    return live.issuperset(pools)
