"""What Flower shows of workers, tasks and queues, over RabbitMQ and over Valkey."""

from __future__ import annotations

import re
import signal
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from celery import Celery

from llmgine_workers.broker.messages import hint
from tests.monitor.running import CHAIN, PASSWORD, Place, duplicate, job_of, soon

pytestmark = pytest.mark.integration

ENDS = {
    "done": ("SUCCESS", ""),
    "dead": (
        "FAILURE",
        "DeadStep('output_invalid: not the schema (ValidationError: x)')",
    ),
    "retry": ("RETRY", "retry until 2027-01-02T03:04:05.000+00:00: provider_overloaded"),
    "wait": ("RETRY", "wait until 2027-01-02T03:04:05.000+00:00: limit"),
    "failover": ("RETRY", "goes on in pool anthropic: content_refused"),
}


@pytest.mark.parametrize("end", ENDS)
async def test_a_task_has_a_readable_name_and_the_end_of_its_step(
    place: Place, end: str
) -> None:
    (given,) = await place.give(f"answer:{end}")
    state, exception = ENDS[end]
    task = await place.flower.shows(given, state)
    assert task["name"] == f"{CHAIN}/answer:{end}"
    assert task["args"] == f"{CHAIN} answer:{end} {job_of(given)}"
    assert (task["exception"] or "") == exception


async def test_the_tasks_page_shows_the_same_and_finds_a_job(place: Place) -> None:
    (given,) = await place.give("answer:dead")
    await place.flower.shows(given, "FAILURE")
    columns = re.findall(
        r"<th[^>]*>\s*([^<]+?)\s*</th>", await place.flower.page("/tasks")
    )
    assert {"Name", "State", "Exception", "args"} <= set(columns)
    (row,) = (await place.flower.table(job_of(given)))["data"]
    assert (row["name"], row["state"]) == (f"{CHAIN}/answer:dead", "FAILURE")
    assert row["exception"].startswith("DeadStep('output_invalid: ")


async def test_a_late_duplicate_changes_neither_failure_nor_success(place: Place) -> None:
    ended = [await place.run(f"answer:{end}") for end in ("dead", "done")]
    await place.publish("openai", [duplicate(one, "answer:skip") for one in ended])
    await place.ended(ended, times=2)
    await place.flower.shows(await place.run("answer:done"), "SUCCESS")  # it came later
    states = [(await place.flower.task(one))["state"] for one in ended]
    assert states == ["FAILURE", "SUCCESS"]


async def test_a_hint_with_nothing_to_do_is_no_success(place: Place) -> None:
    skipped = await place.run("answer:skip")
    await place.flower.shows(await place.run("answer:done"), "SUCCESS")
    assert (await place.flower.task(skipped))["state"] == "STARTED"


async def test_every_queue_is_there_with_its_depth_also_without_workers(
    place: Place,
) -> None:
    waiting = {"anthropic": 3, "dead": 2, "unrouted": 1}
    before = await place.flower.depths()
    for queue, count in waiting.items():
        hints = [hint(uuid4(), "draft", 0, CHAIN) for _ in range(count)]
        await place.publish(queue, hints)
    wanted = {
        f"{place.prefix}.{queue}": waiting.get(queue, 0)
        for queue in ("openai", "anthropic", "tools", "dead", "unrouted")
    }
    assert list(before) == list(wanted)

    async def all_shown() -> bool:
        depths = await place.flower.depths()
        return all(depths[name] == count for name, count in wanted.items())

    await soon(all_shown)
    page = await place.flower.page("/broker")
    for name, count in wanted.items():
        row = re.search(rf'<tr id="{re.escape(name)}">(.*?)</tr>', page, re.DOTALL)
        assert row is not None, name
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row[1])
        assert cells[0] == name
        assert cells[3] == str(count), "the column Ready"


async def test_remote_control_reaches_the_workers(place: Place) -> None:
    await place.flower.get("/api/workers", refresh=1)
    (worker,) = await soon(lambda: _workers(place))
    assert worker.startswith(f"{place.prefix}.openai.")


async def _workers(place: Place) -> list[str]:
    workers = await place.flower.get("/api/workers")
    return [name for name, facts in workers.items() if facts.get("active_queues")]


async def test_no_page_and_no_log_tells_a_password(place: Place) -> None:
    await place.flower.get("/api/workers", refresh=1)
    (worker,) = await soon(lambda: _workers(place))
    paths = ["/", "/broker", "/tasks", f"/worker/{worker}", "/api/workers", "/metrics"]
    texts = [await place.flower.page(path) for path in paths]
    secrets = [PASSWORD, urlsplit(place.url).password or PASSWORD]
    for text in [*texts, place.flower.log.read_text()]:
        assert not [secret for secret in secrets if secret in text]


async def test_old_tasks_are_forgotten_at_ten_thousand(place: Place) -> None:
    app = Celery(broker=place.url, set_as_current=False)
    app.conf.event_exchange = f"{place.prefix}.events"
    with app.connection() as connection:
        sender = app.events.Dispatcher(
            connection, hostname="toy@x", enabled=True, buffer_group={"task"}
        )
        for _ in range(10_100):
            sender.send("task-received", uuid=str(uuid4()), name="many")
        sender.flush()
        sender.send("task-received", uuid="the-last", name="many")
        sender.flush()

    async def last_is_there() -> bool:
        return bool((await place.flower.table("the-last"))["data"])

    await soon(last_is_there)
    assert (await place.flower.table(""))["recordsTotal"] == 10_000


async def test_a_frozen_flower_holds_up_no_worker_and_goes_on_when_thawed(
    place: Place,
) -> None:
    place.flower.process.send_signal(signal.SIGSTOP)
    try:
        await place.ended(await place.give("answer:done", count=200))
    finally:
        place.flower.process.send_signal(signal.SIGCONT)
    await place.flower.shows(await place.run("answer:dead"), "FAILURE")


async def test_a_flower_killed_and_started_again_shows_what_follows(place: Place) -> None:
    await place.flower.ends(signal.SIGKILL)
    await place.run("answer:done")
    await place.flower.start()
    await place.flower.hears()
    (given,) = await place.give("answer:dead")
    await place.flower.shows(given, "FAILURE")
