"""The servers the integration tests share, and private ones that they may break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from llmgine_workers.local import EmbeddedPostgres, EmbeddedValkey, PrivateRabbit
from tests.servers import Postgres, Rabbit, RedisServer, start_or_skip

# What is written survives a killed server without fsync; only a power cut needs it.
_FAST = {"fsync": "off", "full_page_writes": "off"}

NewDirectory = Callable[[str], Path]


@pytest.fixture(scope="session")
def shared_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Never stop this one: every test uses it."""
    control = Postgres(
        EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), parameters=_FAST)
    )
    start_or_skip(control)
    yield control
    control.kill()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Never stop this one: every test uses it."""
    control = RedisServer(EmbeddedValkey(tmp_path_factory.mktemp("valkey")))
    start_or_skip(control)
    yield control
    control.kill()


@pytest.fixture(scope="session")
def shared_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """Never stop this one: every test uses it."""
    control = Rabbit(PrivateRabbit(tmp_path_factory.mktemp("rabbit"), management=True))
    start_or_skip(control)
    yield control
    control.kill()


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
    control = Rabbit(PrivateRabbit(tmp_path_factory.mktemp("rabbit")))
    start_or_skip(control)
    yield control
    control.kill()


@pytest.fixture(scope="module")
def _private_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    control = Postgres(
        EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), parameters=_FAST)
    )
    start_or_skip(control)
    yield control
    control.kill()


@pytest.fixture(scope="module")
def _private_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    control = RedisServer(EmbeddedValkey(tmp_path_factory.mktemp("valkey")))
    start_or_skip(control)
    yield control
    control.kill()


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
