"""The broker: a window of hints, and the mirror of the dead letters.

One `Broker` of four verbs. Over RabbitMQ it is all that architecture and figures speak
of; over Valkey it lets `llmgine up` run where no RabbitMQ is installed.
"""

from __future__ import annotations

from kombu.utils.url import parse_url

from llmgine_workers.broker.messages import DeadMessage, Message
from llmgine_workers.broker.protocol import Broker, Judge
from llmgine_workers.broker.rabbit import RabbitBroker
from llmgine_workers.broker.valkey import ValkeyBroker
from llmgine_workers.errors import ConfigurationError

__all__ = ["Broker", "DeadMessage", "Judge", "Message", "open_broker"]

_AMQP = ("amqp", "amqps", "pyamqp")
_REDIS = ("redis", "rediss", "valkey")


def open_broker(url: str, prefix: str) -> Broker:
    """The broker at that URL. It connects at first use, on the loop that uses it.

    ConfigurationError for a scheme that is none of amqp, amqps, redis and rediss.
    """
    scheme = str(parse_url(url)["transport"])
    if scheme in _AMQP:
        return RabbitBroker(url, prefix)
    if scheme in _REDIS:
        return ValkeyBroker(url, prefix)
    raise ConfigurationError(f"broker.url: {scheme!r} is none of amqp, amqps, redis")
