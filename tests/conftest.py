"""The servers the integration tests share, and private ones that they may break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from llmgine_workers.local import EmbeddedPostgres, EmbeddedValkey
from tests.servers import Postgres, Rabbit, RedisServer, rabbit_server, running

# What is written survives a killed server without fsync; only a power cut needs it.
_FAST = {"fsync": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def shared_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Never stop this one: every test uses it."""
    directory = tmp_path_factory.mktemp("postgres")
    with running(lambda: Postgres(_postgres(directory))) as control:
        yield control


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Never stop this one: every test uses it."""
    directory = tmp_path_factory.mktemp("valkey")
    with running(lambda: RedisServer(EmbeddedValkey(directory))) as control:
        yield control


@pytest.fixture(scope="session")
def shared_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """Never stop this one: every test uses it."""
    directory = tmp_path_factory.mktemp("rabbit")
    with running(lambda: Rabbit(rabbit_server(directory, management=True))) as control:
        yield control


def _postgres(directory: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(directory, parameters=_FAST)


@pytest.fixture(scope="session")
def postgres_url(shared_postgres: Postgres) -> str:
    """A database of this run (of this worker, under pytest-xdist)."""
    return shared_postgres.new_database("llmgine")


@pytest.fixture
def new_database(shared_postgres: Postgres) -> Callable[[], str]:
    """Makes empty databases of the shared server; each call answers a URL."""
    return lambda: shared_postgres.new_database(f"test_{uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def redis_url(shared_redis: RedisServer) -> str:
    """Database 0 of a Valkey of this run (of this worker, under pytest-xdist)."""
    return shared_redis.url


@pytest.fixture(scope="session")
def amqp_url(shared_rabbit: Rabbit) -> str:
    """A virtual host of this run (of this worker, under pytest-xdist)."""
    return shared_rabbit.new_vhost("llmgine-tests")


@pytest.fixture(scope="module")
def _private_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    directory = tmp_path_factory.mktemp("rabbit")
    with running(lambda: Rabbit(rabbit_server(directory))) as control:
        yield control


@pytest.fixture(scope="module")
def _private_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    directory = tmp_path_factory.mktemp("postgres")
    with running(lambda: Postgres(_postgres(directory))) as control:
        yield control


@pytest.fixture(scope="module")
def _private_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    directory = tmp_path_factory.mktemp("valkey")
    with running(lambda: RedisServer(EmbeddedValkey(directory))) as control:
        yield control


@pytest.fixture
def rabbit(_private_rabbit: Rabbit) -> Iterator[Rabbit]:
    """A RabbitMQ of this module, to stop, kill, freeze and replace; restored after."""
    yield _private_rabbit
    _private_rabbit.restore()


@pytest.fixture
def postgres(_private_postgres: Postgres) -> Iterator[Postgres]:
    """A PostgreSQL of this module, to stop, kill and freeze; restored after."""
    yield _private_postgres
    _private_postgres.restore()


@pytest.fixture
def redis_server(_private_redis: RedisServer) -> Iterator[RedisServer]:
    """A Valkey of this module, to stop, kill, freeze and flush; restored after."""
    yield _private_redis
    _private_redis.restore()
