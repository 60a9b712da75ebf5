#!/opt/llmgine/bin/python
"""Health check of a scheduler: exit 0 while it works, asked inside its container.

A scheduler listens nowhere. But it asks the ledger ten times a second, so PostgreSQL
knows whether somebody at this address, other than this check, did so just now.
"""

from __future__ import annotations

import asyncio
import os
import sys

from llmgine_workers import settings
from llmgine_workers.errors import DependencyDown
from llmgine_workers.ledger.connection import Ledger

SILENT_S = 5
"""Fifty missed releases."""

_ASKED_LATELY = """
select exists (
    select from pg_stat_activity
    where datname = current_database() and application_name = 'llmgine'
        and client_addr = inet_client_addr() and pid <> pg_backend_pid()
        and query_start > now() - make_interval(secs => $1)
)
"""


async def _asked_lately() -> bool:
    found = settings.load(None, os.environ)
    ledger = Ledger(found.ledger.url, found.broker.prefix, connections=1)
    try:
        async with ledger.connection() as connection:
            return bool(await connection.fetchval(_ASKED_LATELY, SILENT_S))
    except DependencyDown as error:
        sys.stderr.write(f"{error}\n")
        return False
    finally:
        await ledger.close()


if __name__ == "__main__":
    sys.exit(not asyncio.run(_asked_lately()))
