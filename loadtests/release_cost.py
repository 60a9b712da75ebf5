"""What a tick of the scheduler costs on a large backlog: it must not depend on it.

Writes held steps straight into a ledger of its own, ticks, and prints milliseconds and
the largest plan nodes' rows. Bounded: ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from llmgine_workers import clock
from llmgine_workers.ledger import release, workers
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.migrate import migrate
from llmgine_workers.local import EmbeddedPostgres
from tests.servers import Postgres

POOL = "openai"

_FILL = """
with new as (
    select overlay(gen_random_uuid()::text placing
               overlay(lpad(to_hex($1::bigint + n), 12, '0') placing '-' from 9 for 0)
               || '-7' from 1 for 15)::uuid as id,
           case when n <= $2 then 'flood'
                else 'tenant' || lpad(((n - $2) % $3)::text, 6, '0') end as tenant
    from generate_series(1, $2::bigint + $3::bigint * $4::bigint) n
), job as (
    insert into jobs (id, tenant, chain_version, chain_name, class, stream, simulated,
                      max_attempts, timeout_s, metadata, steps_total, expires_at)
    select id, tenant, 'v', 'load', 1, false, true, 5, 60, '{}', 1,
           now() + interval '1 day' from new
)
insert into steps (job_id, path, kind, pool, tenant, class, state, max_attempts,
                   timeout_s, tokens_in, tokens_out)
select id, 'draft', 'llm', 'openai', tenant, 1, 'queued', 5, 60, 100, 400 from new
"""


async def measure(url: str, flood: int, tenants: int, each: int, credit: int) -> None:
    """Fill, then tick: one line of milliseconds."""
    ledger = Ledger(url, f"f{flood}_{tenants}")
    await migrate(ledger)
    begun = time.monotonic()
    midnight = int(clock.now().timestamp()) // 86400 * 86400 * 1000
    async with ledger.connection() as connection:
        await connection.execute(
            _FILL, midnight, flood, max(tenants, 1), each if tenants else 0, timeout=300
        )
    filled = time.monotonic() - begun
    await workers.register(ledger, clock.uuid7(), POOL, 10_000, "bench:1")
    took, count = [], 0
    for _ in range(20):
        begun = time.perf_counter()
        released = await release.tick(ledger, POOL, 1_000_000, count + credit)
        took.append(1000 * (time.perf_counter() - begun))
        count += len(released or [])
    await ledger.close()
    print(
        f"flood {flood:>9,} tenants {tenants:>6,} x {each}: filled in {filled:.0f} s, "
        f"released {count:,}; tick median {statistics.median(took):.1f} ms, "
        f"worst {max(took):.1f} ms",
        flush=True,
    )


async def run(arguments: argparse.Namespace, url: str) -> None:
    """The same tick behind small and large backlogs."""
    for flood, tenants in ((1_000, 1), (arguments.flood, 1), (arguments.flood, 5_000)):
        await measure(url, flood, tenants, 4, arguments.credit)


def main() -> None:
    """Start a PostgreSQL of its own and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flood", type=int, default=200_000)
    parser.add_argument("--credit", type=int, default=100, help="steps of each tick")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmgine-") as scratch:
        server = Postgres(
            EmbeddedPostgres(Path(scratch) / "pg", parameters={"fsync": "off"})
        )
        server.start()
        try:
            asyncio.run(run(arguments, server.url))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
