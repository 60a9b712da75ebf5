"""The scheduler's health check tells a working scheduler from a frozen or absent one."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

import asyncpg
import pytest

from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.local.server import free_port
from tests.deploy.compose_file import ROOT

pytestmark = pytest.mark.integration

_FALLS_SILENT = """
select pg_sleep_for(interval '5.1 s' - (now() - query_start)) from pg_stat_activity
where application_name = 'llmgine' and datname = current_database()
"""


async def alive(url: str) -> tuple[int | None, str]:
    """The exit status of the check beside this process, and what it says."""
    check = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "deploy" / "scheduler_alive.py"),
        env={**os.environ, "PYTHONPATH": str(ROOT), "LLMGINE_LEDGER__URL": url},
        cwd=ROOT / "deploy",
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await check.communicate()
    return check.returncode, said.decode()


async def test_it_is_alive_while_it_asks_the_ledger_and_dead_when_it_falls_silent(
    new_database: Callable[[], str],
) -> None:
    url = new_database()
    assert await alive(url) == (1, "")
    ledger, witness = Ledger(url, "llmgine"), await asyncpg.connect(url)
    try:
        async with ledger.connection() as scheduler:
            await scheduler.execute("select 'a release'")
            assert await alive(url) == (0, "")
            await witness.execute(_FALLS_SILENT)
            assert await alive(url) == (1, "")
            await scheduler.execute("select 'the next one'")
            assert await alive(url) == (0, "")
    finally:
        await witness.close()
        await ledger.close()


async def test_it_is_not_alive_without_a_ledger() -> None:
    status, said = await alive(f"postgresql://x@127.0.0.1:{free_port()}/x")
    assert status == 1
    assert said.startswith("the ledger does not answer")
