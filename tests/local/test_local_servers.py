from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pika
import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from llmgine_workers.errors import DependencyDown
from llmgine_workers.local import EmbeddedPostgres, EmbeddedValkey, rabbit_available
from llmgine_workers.local.server import free_port
from tests.docker_rabbit import DockerRabbit
from tests.servers import Postgres, Rabbit, RedisServer, lives

pytestmark = pytest.mark.integration

_ONCE = Retry(NoBackoff(), 0)
_OWNER = """
import sys, time
from pathlib import Path
from llmgine_workers import local
server = getattr(local, sys.argv[1])(Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


def listeners(pid: int) -> set[str]:
    """Addresses on which the process and its children listen."""
    process = psutil.Process(pid)
    return {
        connection.laddr.ip
        for one in (process, *process.children(recursive=True))
        for connection in one.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a process that owns one server and prints the server's pid."""
    started: list[subprocess.Popen[str]] = []

    def start(kind: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _OWNER, kind, str(tmp_path)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("EmbeddedPostgres", signal.SIGTERM),
        ("EmbeddedPostgres", signal.SIGKILL),
        ("EmbeddedValkey", signal.SIGTERM),
        ("EmbeddedValkey", signal.SIGKILL),
        ("PrivateRabbit", signal.SIGKILL),  # once: a node takes seconds to start
    ],
)
def test_no_server_outlives_its_owner(
    kind: str,
    end: signal.Signals,
    owner: Callable[[str], subprocess.Popen[str]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    if kind == "PrivateRabbit":
        request.getfixturevalue("shared_rabbit")  # installs it, or skips
        if not rabbit_available():
            pytest.skip("RabbitMQ runs in Docker here")
    process = owner(kind)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]

    process.send_signal(end)

    until(lambda: not any(map(lives, family)))
    until(lambda: not _processes_naming(tmp_path))


def _processes_naming(directory: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(directory)
        or any(str(directory) in word for word in process.info["cmdline"] or ())
        if process.info["cmdline"] and process.info["cmdline"][0] != sys.executable
    ]


async def test_postgres_keeps_data_port_and_password_over_a_crash(
    postgres: Postgres,
) -> None:
    before = postgres.url
    connection = await asyncpg.connect(before)
    assert "PostgreSQL 18" in await connection.fetchval("SELECT version()")
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")

    postgres.kill()
    postgres.start()

    assert postgres.url == before
    connection = await asyncpg.connect(before)
    assert await connection.fetchval("SELECT n FROM kept") == 7
    await connection.close()


async def test_postgres_stops_at_once_although_clients_are_connected(
    postgres: Postgres,
) -> None:
    connection = await asyncpg.connect(postgres.url)
    began = time.monotonic()
    postgres.stop()
    assert time.monotonic() - began < 5
    connection.terminate()


async def test_postgres_refuses_a_wrong_password(postgres: Postgres) -> None:
    forged = re.sub(r":[^:@/]+@", ":guess@", postgres.url)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(forged)


async def test_every_new_database_is_empty(new_database: Callable[[], str]) -> None:
    for _ in range(2):
        connection = await asyncpg.connect(new_database())
        await connection.execute("CREATE TABLE mine ()")
        await connection.close()


def test_valkey_is_empty_after_a_restart_on_the_same_url(
    redis_server: RedisServer,
) -> None:
    client = redis.Redis.from_url(redis_server.url)
    client.set("a", "1")
    redis_server.stop()
    with pytest.raises(redis.ConnectionError):
        client.get("a")
    redis_server.start()
    assert client.get("a") is None
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    client.close()


def test_valkey_refuses_a_client_without_the_password(redis_server: RedisServer) -> None:
    client = redis.Redis(port=redis_server.server.port or 0, retry=_ONCE)
    with pytest.raises(redis.AuthenticationError):
        client.get("a")
    client.close()


def test_a_frozen_server_answers_nothing_until_it_is_resumed(
    redis_server: RedisServer,
) -> None:
    client = redis.Redis.from_url(redis_server.url, socket_timeout=0.2, retry=_ONCE)
    redis_server.pause()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    redis_server.resume()
    until(lambda: client.ping() is True)
    client.close()


def test_rabbit_keeps_durable_queues_over_a_crash_but_not_over_fresh(
    rabbit: Rabbit,
) -> None:
    def declare(*, passive: bool) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(rabbit.url))
        try:
            connection.channel().queue_declare("kept", durable=True, passive=passive)
        finally:
            connection.close()

    declare(passive=False)
    rabbit.kill()
    rabbit.start()
    declare(passive=True)
    rabbit.fresh()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        declare(passive=True)


def test_a_new_virtual_host_can_be_used(amqp_url: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    assert connection.is_open
    connection.close()


def test_postgres_has_no_right_of_root(postgres: Postgres) -> None:
    process = psutil.Process(postgres.server.pid)
    assert 0 not in (*process.uids(), *process.gids())
    groups = Path(f"/proc/{process.pid}/status").read_text().partition("Groups:")[2]
    assert "0" not in groups.partition("\n")[0].split()
    if os.geteuid() == 0:
        assert process.gids().real == pwd.getpwuid(process.uids().real).pw_gid


def test_servers_listen_on_loopback_only(
    shared_rabbit: Rabbit, redis_server: RedisServer, postgres: Postgres
) -> None:
    for control in (shared_rabbit, redis_server, postgres):
        if isinstance(control.server, DockerRabbit):
            continue  # published on 127.0.0.1 by the daemon
        assert listeners(control.server.pid) == {"127.0.0.1"}, control.server.name


def test_secrets_are_readable_by_the_owner_only(redis_server: RedisServer) -> None:
    directory = redis_server.server.data_dir
    for name in ("password", "valkey.conf"):
        assert os.stat(directory / name).st_mode & 0o077 == 0, name


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    port = free_port()
    first = EmbeddedValkey(tmp_path / "one", port)
    first.start()
    second = EmbeddedPostgres(tmp_path / "two", port)
    try:
        with pytest.raises(DependencyDown, match=r"PostgreSQL did not start: .*in use"):
            second.start()
        assert not second.running
    finally:
        first.stop()
