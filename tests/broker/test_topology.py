"""The topology: made once, verified, and mended by the command that is printed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from uuid import uuid4

import pika
import pytest

from llmgine_workers import clock
from llmgine_workers.broker import DeadMessage, messages, open_broker, topology
from llmgine_workers.broker.declare import declare, server_version, verify
from llmgine_workers.errors import ConfigurationError, DependencyDown
from tests.servers import Rabbit

POOLS = ["openai", "tools"]


def names(prefix: str) -> set[str]:
    ours = ["jobs", "dead", "unrouted", "openai", "tools"]
    return {f"{prefix}.{name}" for name in ours}


@pytest.fixture
def prefix() -> str:
    return f"t{uuid4().hex[:10]}"


@pytest.mark.integration
async def test_declare_makes_what_verify_misses(amqp_url: str, prefix: str) -> None:
    missing = await verify(amqp_url, prefix, POOLS)
    assert {one.name for one in missing} == names(prefix)
    assert {(one.found, one.command) for one in missing} == {
        ("missing", "llmgine migrate")
    }
    for _ in range(2):
        await declare(amqp_url, prefix, POOLS)
        assert await verify(amqp_url, prefix, POOLS) == []


@pytest.mark.integration
async def test_verify_makes_nothing(amqp_url: str, prefix: str) -> None:
    await verify(amqp_url, prefix, POOLS)
    assert len(await verify(amqp_url, prefix, POOLS)) == 7  # dead and unrouted twice


@pytest.fixture
def ctl(shared_rabbit: Rabbit, amqp_url: str) -> Callable[[str], str]:
    """Runs a command that we print for operators."""

    def run(command: str) -> str:
        words = shlex.split(command.removesuffix(" && llmgine migrate"))
        assert words[0] == "rabbitmqctl"
        return shared_rabbit.ctl(*words[1:])

    return run


@pytest.mark.integration
async def test_a_queue_of_another_type_is_told_and_the_printed_command_mends_it(
    amqp_url: str, prefix: str, ctl: Callable[[str], str]
) -> None:
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        connection.channel().queue_declare(f"{prefix}.tools", durable=True)
    with pytest.raises(ConfigurationError, match=r"PRECONDITION.*rabbitmqctl delete"):
        await declare(amqp_url, prefix, POOLS)
    differences = [
        one for one in await verify(amqp_url, prefix, POOLS) if one.found != "missing"
    ]
    assert [one.name for one in differences] == [f"{prefix}.tools"]
    assert "inequivalent arg" in differences[0].found

    ctl(differences[0].command)
    await declare(amqp_url, prefix, POOLS)
    assert await verify(amqp_url, prefix, POOLS) == []


@pytest.mark.integration
async def test_the_printed_policies_apply_to_each_queue(
    amqp_url: str, prefix: str, shared_rabbit: Rabbit, ctl: Callable[[str], str]
) -> None:
    await declare(amqp_url, prefix, POOLS)
    version = await server_version(amqp_url)
    for policy in topology.policies(prefix, version):
        ctl(policy.command("llmgine-tests"))
    listed = shared_rabbit.ctl(
        *("list_queues", "-p", "llmgine-tests", "name", "policy", "--formatter", "json")
    )
    applied = {row["name"]: row["policy"] for row in json.loads(listed)}
    assert {name: applied[name] for name in applied if name.startswith(prefix)} == {
        f"{prefix}.openai": f"{prefix}-work",
        f"{prefix}.tools": f"{prefix}-work",
        f"{prefix}.dead": f"{prefix}-dead",
        f"{prefix}.unrouted": f"{prefix}-unrouted",
    }


@pytest.mark.integration
async def test_what_a_worker_rejects_reaches_the_mirror_with_its_reason(
    amqp_url: str, prefix: str
) -> None:
    await declare(amqp_url, prefix, POOLS)
    hint = messages.hint(clock.uuid7(), "draft", 0, "summarize")
    broker = open_broker(amqp_url, prefix)
    await broker.publish(f"{prefix}.openai", [hint])
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(f"{prefix}.jobs", f"{prefix}.tools", b"\xffgarbage")
        for queue in (f"{prefix}.openai", f"{prefix}.tools"):
            method, _, _ = channel.basic_get(queue)
            channel.basic_reject(method.delivery_tag, requeue=False)
    found: list[DeadMessage] = []

    async def judge(seen: list[DeadMessage]) -> list[bool]:
        found.extend(seen)
        return [False] * len(seen)

    while len(found) < 2:
        await broker.mirror(judge)  # type: ignore[arg-type]
    await broker.close()
    assert {m.letter_id for m in found} == {None}
    assert {(m.reason, messages.is_hint(m)) for m in found} == {
        (f"rejected from {prefix}.openai", True),
        (f"rejected from {prefix}.tools", False),
    }
    assert b"\xffgarbage" in {m.body for m in found}


@pytest.mark.integration
async def test_hints_of_others_for_an_unknown_pool_are_kept_for_a_look(
    amqp_url: str, prefix: str
) -> None:
    await declare(amqp_url, prefix, POOLS)
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(f"{prefix}.jobs", f"{prefix}.nowhere", b"x", mandatory=True)
    broker = open_broker(amqp_url, prefix)
    assert await broker.depth(f"{prefix}.unrouted") == 1
    assert await broker.depth(f"{prefix}.nowhere") is None
    assert await broker.depth(f"{prefix}.openai") == 0  # after a refused question, too
    await broker.close()


@pytest.mark.integration
async def test_a_wrong_password_is_a_matter_of_configuration(amqp_url: str) -> None:
    host = amqp_url.rpartition("@")[2]
    with pytest.raises(ConfigurationError, match="ACCESS_REFUSED"):
        await verify(f"amqp://llmgine:guess@{host}", "llmgine", POOLS)


@pytest.mark.integration
async def test_over_redis_there_is_nothing_to_declare(redis_url: str) -> None:
    await declare(redis_url, "llmgine", POOLS)
    assert await verify(redis_url, "llmgine", POOLS) == []
    assert await server_version(redis_url) == ()


async def test_a_broker_that_is_away_is_named() -> None:
    with pytest.raises(DependencyDown, match="RabbitMQ"):
        await declare("amqp://127.0.0.1:1", "llmgine", POOLS)


def test_a_worker_declares_nothing() -> None:
    queue = topology.pool_queue("llmgine", "openai")
    assert queue.name == queue.routing_key == "llmgine.openai"
    assert queue.no_declare is True
    assert queue.queue_arguments == {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "llmgine.dead",
    }


@pytest.mark.parametrize(("version", "limit"), [((3, 10, 8), None), ((4, 0, 5), -1)])
def test_only_rabbitmq_4_must_be_told_that_the_mirror_has_no_delivery_limit(
    version: tuple[int, ...], limit: int | None
) -> None:
    queues = {queue.name: queue for queue in topology.queues("llmgine", POOLS, version)}
    assert queues["llmgine.dead"].queue_arguments.get("x-delivery-limit") == limit
    policies = {one.name: one for one in topology.policies("llmgine", version)}
    assert policies["llmgine-dead"].definition.get("delivery-limit") == limit
