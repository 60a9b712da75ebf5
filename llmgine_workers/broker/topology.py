"""Everything that exists in RabbitMQ, on one page.

    llmgine.jobs     direct exchange for hints of others; ours go straight to their queue
    llmgine.<pool>   quorum queue: the window of hints of one pool
    llmgine.dead     fanout exchange and quorum queue: the mirror of the open letters,
                     and the net for what a worker cannot read
    llmgine.unrouted fanout exchange and queue: hints for a pool that does not exist

Arguments are only what is immutable by nature; the rest are policies, which an operator
can change. RabbitMQ takes policies from `rabbitmqctl` or its HTTP API, never over AMQP.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kombu import Exchange, Queue

DELIVERY_LIMIT = 20
"""Deliveries of a hint before it counts as poison: a net, crashes are the ledger's."""

DEAD_MAX_LENGTH = 100_000
"""Letters in the mirror; the oldest leave, the ledger has all (interface, section 8)."""

UNROUTED_MAX_LENGTH = 10_000
"""Unroutable hints kept for a look; the ledger publishes what matters again."""

_QUORUM = {"x-queue-type": "quorum"}
_NO_LIMIT = -1
_LIMITED_BY_DEFAULT = (4, 0)
"""From 4.0 a quorum queue drops a message at its 20th delivery unless told otherwise."""

Version = tuple[int, ...]


def dead_queue(prefix: str) -> str:
    """The name of the mirror's queue."""
    return f"{prefix}.dead"


def exchanges(prefix: str) -> list[Exchange]:
    """Those that must exist; the first is the one for hints."""
    unrouted = f"{prefix}.unrouted"
    jobs = Exchange(
        f"{prefix}.jobs", "direct", arguments={"alternate-exchange": unrouted}
    )
    return [jobs, Exchange(f"{prefix}.dead", "fanout"), Exchange(unrouted, "fanout")]


def pool_queue(prefix: str, pool: str) -> Queue:
    """The queue of one pool, for a consumer: it never declares anything."""
    queue = _pool_queue(prefix, pool)
    queue.no_declare = True
    return queue


def queues(prefix: str, pools: Sequence[str], version: Version) -> list[Queue]:
    """Those that must exist, bound to their exchanges."""
    _, dead, unrouted = exchanges(prefix)
    dead_arguments = dict[str, Any](_QUORUM)
    if version >= _LIMITED_BY_DEFAULT:  # earlier ones refuse -1 and have no limit
        dead_arguments["x-delivery-limit"] = _NO_LIMIT
    return [
        *(_pool_queue(prefix, pool) for pool in pools),
        Queue(dead_queue(prefix), dead, queue_arguments=dead_arguments),
        Queue(f"{prefix}.unrouted", unrouted, queue_arguments=dict(_QUORUM)),
    ]


def _pool_queue(prefix: str, pool: str) -> Queue:
    name = f"{prefix}.{pool}"
    arguments = {**_QUORUM, "x-dead-letter-exchange": f"{prefix}.dead"}
    jobs = exchanges(prefix)[0]
    return Queue(name, jobs, routing_key=name, queue_arguments=arguments)


@dataclass(frozen=True)
class Policy:
    """What an operator sets by `command`, or replaces by a choice of theirs."""

    name: str
    pattern: str
    definition: Mapping[str, Any]

    def arguments(self, vhost: str = "/") -> list[str]:
        """For `rabbitmqctl`."""
        where = ["set_policy", "-p", vhost, "--apply-to", "queues"]
        return [*where, self.name, self.pattern, json.dumps(self.definition)]

    def command(self, vhost: str = "/") -> str:
        """The line to paste into a shell."""
        return shlex.join(["rabbitmqctl", *self.arguments(vhost)])


def policies(prefix: str, version: Version) -> list[Policy]:
    """One for each kind of queue; no overlap, as only one policy applies to a queue."""
    name = re.escape(prefix)
    mirror: dict[str, Any] = {"max-length": DEAD_MAX_LENGTH, "overflow": "drop-head"}
    if version >= _LIMITED_BY_DEFAULT:
        mirror["delivery-limit"] = _NO_LIMIT
    return [
        Policy(
            f"{prefix}-work",
            rf"^{name}\.(?!(dead|unrouted)$)[^.]+$",
            {"delivery-limit": DELIVERY_LIMIT},
        ),
        Policy(f"{prefix}-dead", rf"^{name}\.dead$", mirror),
        Policy(
            f"{prefix}-unrouted",
            rf"^{name}\.unrouted$",
            {"max-length": UNROUTED_MAX_LENGTH, "overflow": "drop-head"},
        ),
    ]
