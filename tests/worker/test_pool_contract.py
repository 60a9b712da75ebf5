"""What a worker does with hints, over a real broker, with our pool and with threads."""

# mypy: allow-untyped-calls
# (kombu says it is typed, and is not)
from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from amqp.exceptions import NotFound
from kombu.entity import Queue

from tests.worker.toy_worker import ToyWorker, until

pytestmark = pytest.mark.integration
only_our_pool = pytest.mark.parametrize("worker", ["greenlets"], indirect=True)

JOB = "0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11"
HINT = {"task": "llmgine.step", "id": "1"}
GOOD = [[JOB, "answer:done"], {}, {}]
AFTERWARDS = {"callbacks": [{"task": "llmgine.step", "args": [JOB, "answer:done"]}]}
NO_HINTS: dict[str, tuple[Any, dict[str, Any] | None]] = {
    "not JSON": (b"\x00\xff garbage", HINT),
    "half a body": (b'[["job", "pa', HINT),
    "a number": (5, HINT),
    "Celery's first protocol": ({"args": GOOD[0], "kwargs": {}}, HINT),
    "one argument": ([[JOB], {}, {}], HINT),
    "arguments that are no texts": ([[1, {}], {}, {}], HINT),
    "a job that is no UUID": ([["job", "answer:done"], {}, {}], HINT),
    "keyword arguments": ([GOOD[0], {"x": 1}, {}], HINT),
    "a task to call afterwards": ([GOOD[0], {}, AFTERWARDS], HINT),
    "an unknown task": (GOOD, {**HINT, "task": "other"}),
    "one of Celery's own tasks": (
        [[], {}, {}],
        {**HINT, "task": "celery.backend_cleanup"},
    ),
    "no headers": (GOOD, None),
    "no id": (GOOD, {"task": "llmgine.step"}),
    "for later": (GOOD, {**HINT, "eta": "2035-01-01T00:00:00"}),
    "headers of wrong types": (GOOD, {**HINT, "timelimit": "x"}),
    "unknown compression": (GOOD, {**HINT, "compression": "application/x-none"}),
}


async def test_every_outcome_is_acknowledged_and_readable_in_flower(
    worker: ToyWorker,
) -> None:
    names = ["done", "skip", "wait", "retry", "failover", "dead"]
    jobs = await worker.run(*[f"answer:{name}" for name in names])
    seen: dict[str, tuple[str, str]] = {}

    def all_shown() -> bool:
        for event in worker.events():
            ended = event["type"] in {"task-succeeded", "task-retried", "task-failed"}
            if ended and event["uuid"] in jobs:
                shown = str(event.get("exception", ""))
                seen[names[jobs.index(event["uuid"])]] = event["type"], shown
        return len(seen) == len(names) - 1

    await until(all_shown)
    assert seen["done"] == ("task-succeeded", "")
    assert "skip" not in seen
    for name, words in {
        "wait": "wait until 2027-01-02T03:04:05.000+00:00: limit",
        "retry": "retry until 2027-01-02T03:04:05.000+00:00: provider_overloaded",
        "failover": "goes on in pool anthropic: content_refused",
    }.items():
        assert seen[name] == ("task-retried", words)
    assert seen["dead"] == (
        "task-failed",
        "DeadStep('output_invalid: not the schema (ValidationError: x)')",
    )
    await worker.all_slots_are_free()


@pytest.mark.parametrize("how", ["raise", "cancel", "exit", "interrupt"])
async def test_a_hint_that_ends_badly_fails_and_frees_its_slot(
    worker: ToyWorker, how: str
) -> None:
    jobs = [worker.publish(f"fail:{how}") for _ in range(worker.slots)]
    failed: set[str] = set()

    def all_failed() -> bool:
        failed.update(e["uuid"] for e in worker.events() if e["type"] == "task-failed")
        return failed >= set(jobs)

    await until(all_failed)
    await worker.all_slots_are_free()


@pytest.mark.parametrize("what", NO_HINTS)
async def test_what_is_no_hint_is_dead_lettered_raw(worker: ToyWorker, what: str) -> None:
    value, headers = NO_HINTS[what]
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    worker.publish_raw(body, headers)
    found: list[bytes] = []

    def arrived() -> bool:
        found.extend(worker.dead_bodies())
        return bool(found)

    await until(arrived)
    assert found == [body]
    await worker.all_slots_are_free()


async def test_a_pickle_is_dead_lettered_unopened(worker: ToyWorker) -> None:
    worker.publish_raw(b"cposix\nsystem\n.", HINT, "application/x-python-serialize")
    found: list[bytes] = []

    def arrived() -> bool:
        found.extend(worker.dead_bodies())
        return bool(found)

    await until(arrived)
    assert found == [b"cposix\nsystem\n."]


async def test_context_variables_reach_the_coroutine(worker: ToyWorker) -> None:
    jobs = await worker.run("sleep:0.1", "sleep:0.1", "answer:done")
    for note in worker.journal("started", *jobs):
        assert note["traced_task"] == note["job"]  # set in Celery's tracer
        assert note["thread"] == "llmgine-loop"
        if worker.pool == "greenlets":
            assert note["received_by"] == "the hub"  # set where the message came in


@only_our_pool
async def test_celery_is_told_everything_on_the_hubs_thread(worker: ToyWorker) -> None:
    before = len(worker.journal("told"))
    await worker.run("answer:done", "answer:dead", "sleep:0.05")
    worker.publish("fail:raise")
    await until(lambda: len(worker.journal("told")) >= before + 8)
    told = worker.journal("told")
    assert {note["name"] for note in told} == {"accept_callback", "callback"}
    assert all(note["on_hub_thread"] for note in told)


async def test_acknowledgements_do_not_wait_for_the_hub_to_time_out(
    worker: ToyWorker,
) -> None:
    begin = time.monotonic()
    await worker.run(*["sleep:0.001"] * 10 * worker.slots)
    # Ten rounds; a hub that is not woken takes a second and more for each.
    assert time.monotonic() - begin < 5


async def test_a_lost_broker_connection_ends_no_call_and_leaks_no_slot(
    worker: ToyWorker,
) -> None:
    jobs = [worker.publish("sleep:1") for _ in range(worker.slots)]
    await worker.started(*jobs)
    worker.proxy.cut()
    await worker.ended(*jobs, times=2)  # the broker delivered all of them again
    assert not worker.journal("cancelled", *jobs)
    assert most_at_once(worker, jobs) == worker.slots
    await worker.all_slots_are_free()


async def test_a_stalled_broker_does_not_stop_the_loop(worker: ToyWorker) -> None:
    jobs = [worker.publish("sleep:0.3") for _ in range(worker.slots)]
    await worker.started(*jobs)
    worker.proxy.stall()
    try:
        await worker.ended(*jobs)
    finally:
        worker.proxy.flow()
    await worker.all_slots_are_free()


@only_our_pool
async def test_terminating_a_task_cancels_its_coroutine(worker: ToyWorker) -> None:
    job = worker.publish("sleep:60")
    await worker.started(job)
    with worker.control() as app:
        app.control.revoke(job, terminate=True)
    await until(lambda: worker.journal("cancelled", job))
    await worker.all_slots_are_free()


async def test_a_revoked_hint_runs_all_the_same(worker: ToyWorker) -> None:
    """Its id comes back with each hint for the step, and only the ledger may cancel."""
    (job,) = await worker.run("answer:done")
    with worker.control() as app:
        revoke = app.control.revoke
        await asyncio.to_thread(revoke, job, reply=True, timeout=10, limit=1)
    again = worker.publish("answer:done", id=job)
    await worker.ended(again)


async def test_remote_control_answers(worker: ToyWorker) -> None:
    with worker.control() as app:
        inspect = app.control.inspect(timeout=10, limit=1)
        (stats,) = (await asyncio.to_thread(inspect.stats)).values()
        ((name, queues),) = (await asyncio.to_thread(inspect.active_queues)).items()
    assert stats["pool"]["max-concurrency"] == worker.slots
    assert [queue["name"] for queue in queues] == [worker.queue_name]
    assert name.startswith(f"{worker.queue_name}.")


async def test_an_unreadable_control_message_does_no_harm(worker: ToyWorker) -> None:
    producer = worker.connection.Producer(worker.connection.default_channel)
    producer.publish(
        b"garbage",
        exchange=f"{worker.prefix}.control.pidbox",
        content_type="application/json",
        headers={"compression": "application/x-none"},
    )
    await worker.all_slots_are_free()


async def test_celerys_queues_for_delayed_delivery_are_not_made(
    worker: ToyWorker,
) -> None:
    channel = worker.connection.channel()
    with pytest.raises(NotFound):
        Queue("celery_delayed_0", channel=channel).queue_declare(passive=True)


async def test_the_lifespan_is_told_the_slots(worker: ToyWorker) -> None:
    assert [note["slots"] for note in worker.journal("opened")] == [worker.slots]


def most_at_once(worker: ToyWorker, jobs: list[str]) -> int:
    """The largest number of these jobs' hints that ran at the same time."""
    running = most = 0
    for note in worker.notes():
        if note.get("job") in jobs:
            running += {"started": 1, "ended": -1}.get(note["what"], 0)
            most = max(most, running)
    return most
