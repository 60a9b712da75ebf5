"""What `llmgine doctor` looks at: each check says what is right, or how to mend it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from llmgine_workers.broker import declare, topology
from llmgine_workers.ephemeral.connection import Ephemeral
from llmgine_workers.errors import ConfigurationError, LlmgineError
from llmgine_workers.ledger import overview, schema
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.settings import Settings

_PACKAGES = ("celery", "kombu", "pika", "redis", "openai", "anthropic", "flower")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    `problem` is None if it is as it must be; `advice` is what could be better.
    """

    name: str
    found: str
    problem: str | None = None
    code: str = "configuration"
    advice: str | None = None

    def __str__(self) -> str:
        mark = "BAD   " if self.problem else "advice" if self.advice else "ok    "
        return f"{mark}  {self.name}: {self.problem or self.advice or self.found}"


async def examine(settings: Settings, environ: Mapping[str, str]) -> list[Check]:
    """All checks; a store that is down fails its own only."""
    ledger = Ledger(settings.ledger.url, settings.broker.prefix, connections=2)
    ephemeral = Ephemeral(settings.redis.url, settings.broker.prefix)
    checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("ledger", partial(_ledger, ledger)),
        ("broker", partial(_broker, settings, environ)),
        ("redis", partial(_redis, ephemeral)),
        ("workers", partial(_workers, ledger, settings, environ)),
    ]
    try:
        found = [await _checked(name, check) for name, check in checks]
    finally:
        await ledger.close()
        await ephemeral.close()
    return [_versions(), _providers(settings, environ), _grace(settings), *found]


async def _checked(name: str, check: Callable[[], Awaitable[str]]) -> Check:
    try:
        return Check(name, await check())
    except LlmgineError as error:
        return Check(name, "", str(error), error.code)


async def _ledger(ledger: Ledger) -> str:
    await schema.verify(ledger)
    async with ledger.connection() as connection:
        number = await connection.fetchval("show server_version")
    return f"PostgreSQL {number}, the schema is the newest"


async def _broker(settings: Settings, environ: Mapping[str, str]) -> str:
    url, prefix = settings.broker.url, settings.broker.prefix
    number = await declare.server_version(url)
    differences = await declare.verify(url, prefix, settings.pools(environ))
    if differences:
        raise ConfigurationError(
            "; ".join(f"{d.name}: {d.found} (mend: {d.command})" for d in differences)
        )
    if not number:
        return "Valkey in place of RabbitMQ, good for one machine only"
    advised = "\n     ".join(p.command() for p in topology.policies(prefix, number))
    return f"RabbitMQ {'.'.join(map(str, number))}; policies to set:\n     {advised}"


async def _redis(ephemeral: Ephemeral) -> str:
    await ephemeral.command("PING")
    return "answers"


async def _workers(ledger: Ledger, settings: Settings, environ: Mapping[str, str]) -> str:
    await schema.verify(ledger)
    live = {load.pool: load.workers for load in await overview.pool_loads(ledger)}
    without = [pool for pool in settings.pools(environ) if not live.get(pool)]
    if without:
        raise LlmgineError(
            f"no live worker serves {', '.join(without)}: llmgine worker {without[0]}",
            "dependency_down",
        )
    return ", ".join(f"{pool} {n}" for pool, n in live.items())


def _versions() -> Check:
    python = ".".join(map(str, sys.version_info[:3]))
    rest = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return Check(
        "versions", f"llmgine {version('llmgine-workers')}, Python {python}, {rest}"
    )


def _providers(settings: Settings, environ: Mapping[str, str]) -> Check:
    enabled = settings.enabled_providers(environ)
    missing = [
        f"{name} (set {provider.key_env})"
        for name, provider in settings.providers.items()
        if name not in enabled
    ]
    found = f"enabled: {', '.join(enabled) or 'none'}"
    if missing:
        found += f"; without a key: {', '.join(missing)}"
    if not enabled:
        return Check("providers", found, f"no provider is enabled: {', '.join(missing)}")
    return Check("providers", found)


def _grace(settings: Settings) -> Check:
    grace, timeout = settings.worker.grace, settings.steps.timeout
    if grace >= timeout:
        return Check(
            "grace", f"worker.grace {grace:g} s covers steps.timeout {timeout:g} s"
        )
    advice = (
        f"worker.grace {grace:g} s is shorter than steps.timeout {timeout:g} s: a call "
        "cut off at a restart may be paid twice; raise the one or lower the other"
    )
    return Check("grace", "", advice=advice)
