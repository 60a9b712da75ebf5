"""Opens what one command needs of the stores, and checks that they are migrated."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import typer

from llmgine_workers.cli import invocation

if TYPE_CHECKING:
    from llmgine_workers.ledger.connection import Ledger
    from llmgine_workers.runtime import Runtime


def stores(
    context: typer.Context, work: Callable[[Runtime], Coroutine[Any, Any, Any]]
) -> Any:
    """Open the runtime for one piece of work."""
    from llmgine_workers.cli.stores import opened
    from llmgine_workers.ledger import schema

    given = invocation.of(context)
    settings = given.settings()

    async def open_and_work() -> Any:
        async with opened(settings, given.environ) as rt:
            await schema.verify(rt.ledger)
            return await work(rt)

    return invocation.wait_for(open_and_work)


def ledger(
    context: typer.Context, work: Callable[[Ledger], Coroutine[Any, Any, Any]]
) -> Any:
    """Open only the ledger, so that it also works while the rest is down."""
    from llmgine_workers.ledger import schema
    from llmgine_workers.ledger.connection import Ledger

    settings = invocation.of(context).settings()

    async def open_and_work() -> Any:
        found = Ledger(settings.ledger.url, settings.broker.prefix, connections=2)
        try:
            await schema.verify(found)
            return await work(found)
        finally:
            await found.close()

    return invocation.wait_for(open_and_work)
