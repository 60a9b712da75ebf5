"""Makes the topology (`llmgine migrate`) and compares it with what is there."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed
from kombu import Connection, Exchange, Queue
from kombu.exceptions import KombuError
from kombu.utils.url import parse_url

from llmgine_workers.broker.protocol import CONNECT_S
from llmgine_workers.broker.topology import Version, exchanges, queues
from llmgine_workers.errors import ConfigurationError, DependencyDown

_MIGRATE = "llmgine migrate"


@dataclass(frozen=True)
class Difference:
    """What is not as it must be, and the command that mends it."""

    name: str
    found: str
    command: str


async def declare(url: str, prefix: str, pools: Sequence[str]) -> None:
    """Make what is missing; idempotent, and nothing to do over Redis.

    ConfigurationError if something exists in another form or the user may not make it;
    DependencyDown if RabbitMQ does not answer.
    """
    if _has_topology(url):
        await asyncio.to_thread(_declare, url, prefix, pools)


async def verify(url: str, prefix: str, pools: Sequence[str]) -> list[Difference]:
    """What `declare` would change or could not; makes nothing. DependencyDown."""
    if not _has_topology(url):
        return []
    return await asyncio.to_thread(_verify, url, prefix, pools)


async def server_version(url: str) -> Version:
    """RabbitMQ's version as numbers; empty over Redis. DependencyDown."""
    if not _has_topology(url):
        return ()
    return await asyncio.to_thread(_version_at, url)


def _has_topology(url: str) -> bool:
    return str(parse_url(url)["transport"]) in ("amqp", "amqps", "pyamqp")


def _version_at(url: str) -> Version:
    with _connected(url) as connection:
        return _version(connection)


def _declare(url: str, prefix: str, pools: Sequence[str]) -> None:
    with _connected(url) as connection:
        for entity in _entities(prefix, pools, _version(connection)):
            difference = _attempt(connection, entity)
            if difference is not None:
                raise ConfigurationError(
                    f"{difference.name}: {difference.found}; mend it with: "
                    f"{difference.command}"
                )


def _verify(url: str, prefix: str, pools: Sequence[str]) -> list[Difference]:
    with _connected(url) as connection:
        found = []
        for entity in _entities(prefix, pools, _version(connection)):
            if not _exists(connection, entity):
                found.append(Difference(entity.name, "missing", _MIGRATE))
            elif (difference := _attempt(connection, entity)) is not None:
                found.append(difference)
        return found


def _entities(prefix: str, pools: Sequence[str], version: Version) -> list[Any]:
    return [*exchanges(prefix), *queues(prefix, pools, version)]


def _exists(connection: Connection, entity: Exchange | Queue) -> bool:
    channel = connection.channel()
    try:
        if isinstance(entity, Queue):
            entity.queue_declare(passive=True, channel=channel)
        else:
            entity.declare(passive=True, channel=channel)
    except NotFound:
        return False
    except AccessRefused:
        return True  # not ours to judge
    channel.close()
    return True


def _attempt(connection: Connection, entity: Exchange | Queue) -> Difference | None:
    """Declare it; RabbitMQ itself compares with what exists."""
    channel = connection.channel()
    try:
        entity.declare(channel=channel)
    except PreconditionFailed as refused:
        return _inequivalent(connection, entity, str(refused.reply_text))
    except AccessRefused as refused:
        return Difference(entity.name, str(refused.reply_text), _permit(connection))
    channel.close()
    return None


def _inequivalent(
    connection: Connection, entity: Exchange | Queue, words: str
) -> Difference | None:
    if isinstance(entity, Queue):
        older = dict(entity.queue_arguments or {})
        if older.pop("x-delivery-limit", None) is not None:
            # Made by RabbitMQ 3, which has no such value: the policy sets it instead.
            entity.queue_arguments = older
            return _attempt(connection, entity)
        mend = f"rabbitmqctl delete_queue -p {_vhost(connection)} {entity.name}"
    else:
        mend = f"rabbitmqadmin delete exchange name={entity.name}"
    # Hints come again from the ledger, and so does the mirror.
    return Difference(entity.name, words, f"{mend} && {_MIGRATE}")


def _permit(connection: Connection) -> str:
    user = shlex.quote(connection.userid or "guest")
    return f"rabbitmqctl set_permissions -p {_vhost(connection)} {user} '.*' '.*' '.*'"


def _vhost(connection: Connection) -> str:
    return shlex.quote(connection.virtual_host or "/")


def _version(connection: Connection) -> Version:
    text = str(connection.connection.server_properties.get("version", ""))
    numbers = text.partition("-")[0].partition("+")[0].split(".")
    return tuple(int(number) for number in numbers if number.isdigit())


def _connected(url: str) -> Connection:
    connection = Connection(url, connect_timeout=CONNECT_S)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0)
    except AccessRefused as refused:
        raise ConfigurationError(f"RabbitMQ: {refused.reply_text}") from None
    except (KombuError, OSError, *connection.connection_errors) as error:
        raise DependencyDown(f"RabbitMQ does not answer: {error}") from None
    return connection
