"""Row 16's webhooks, by the scheduler: at least once, with back-off, for a day."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import orjson

from llmgine_workers import clock
from llmgine_workers.ledger import views, webhooks
from llmgine_workers.ledger.webhooks import Owed
from llmgine_workers.webhooks.sending import Sender
from llmgine_workers.webhooks.signature import headers, secrets_of

if TYPE_CHECKING:
    from llmgine_workers.runtime import Runtime

AT_ONCE = 50
FIRST_S, LONGEST_S = 5.0, 3600.0
"""Seconds before the second try, doubled to the longest."""
MAX_BODY = 256 * 1024
"""A larger job is told without its output; it is there to be fetched."""
BETWEEN = 0.8, 1.2


async def deliver(rt: Runtime) -> int:
    """Send what is due; returns how many were tried."""
    settings = rt.settings.webhooks
    secrets = secrets_of(settings.secret.get_secret_value())
    if not secrets:
        return 0
    sender = Sender(settings.networks)
    owed = await webhooks.take_due(rt.ledger, AT_ONCE)
    await asyncio.gather(*(_deliver(rt, sender, secrets, one) for one in owed))
    return len(owed)


async def _deliver(
    rt: Runtime, sender: Sender, secrets: tuple[bytes, ...], one: Owed
) -> None:
    job = await views.job(rt.ledger, None, one.job)
    if job is None:
        return
    body, at = message(job, one), clock.now()
    signed = headers(secrets, one.id, at, body)
    sent = await sender.post(
        one.url, body, {"content-type": "application/json", **signed}
    )
    tried = {
        "at": clock.rfc3339(at),
        "status": sent.status,
        "error": sent.error,
        "ms": sent.ms,
    }
    if sent.is_taken:
        await webhooks.delivered(rt.ledger, one, tried)
    else:
        await webhooks.again(rt.ledger, one, tried, delay_s(one.tries))


def message(job: dict[str, Any], one: Owed) -> bytes:
    """What is sent: the job without its inputs, under a type and a time."""
    told = {**job, "inputs": None}
    body = _encoded(told, one)
    if len(body) > MAX_BODY:
        body = _encoded({**told, "output": None, "output_left_out": True}, one)
    return body


def delay_s(tries: int) -> float:
    """Seconds until the next try, after so many."""
    pause = min(FIRST_S * 2.0 ** min(tries - 1, 20), LONGEST_S)
    return pause * random.uniform(*BETWEEN)  # noqa: S311 - spread, not secrecy


def _encoded(job: dict[str, Any], one: Owed) -> bytes:
    at = clock.rfc3339(one.created_at)
    return orjson.dumps({"type": "job.finished", "timestamp": at, "data": job})
