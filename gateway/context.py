"""What every request of one gateway process shares."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from gateway.auth import Keyring
from llmgine_workers.runtime import Runtime

BATCHES_AT_ONCE = 2
"""Decoded at a time: one can be tens of MB while it is checked and written."""


@dataclass(frozen=True)
class Gateway:
    """The stores, the keys, and whether this process is on its way out."""

    rt: Runtime
    keyring: Keyring
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    batches: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(BATCHES_AT_ONCE)
    )


async def _of(connection: HTTPConnection) -> Gateway:
    found: Gateway = connection.app.state.gateway
    return found


Here = Annotated[Gateway, Depends(_of)]
"""A route's parameter: the gateway that serves it."""
