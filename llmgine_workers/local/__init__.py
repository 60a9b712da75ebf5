"""Embedded servers: PostgreSQL, Valkey and RabbitMQ on private loopback ports.

`llmgine up` and the tests use the same classes. Each has `start()`, `stop()` and `url`,
keeps its files under one directory, and never outlives the process that started it.
"""

from llmgine_workers.local.postgres import EmbeddedPostgres
from llmgine_workers.local.rabbit import PrivateRabbit, rabbit_available
from llmgine_workers.local.server import LocalServer
from llmgine_workers.local.valkey import EmbeddedValkey

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedValkey",
    "LocalServer",
    "PrivateRabbit",
    "rabbit_available",
]
