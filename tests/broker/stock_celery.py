"""A Celery application as anyone would write it; run by `celery -A` in a test."""

from __future__ import annotations

import os

from celery import Celery

from llmgine_workers.broker import topology

app = Celery(broker=os.environ["BROKER_URL"])
app.conf.update(
    task_queues=[topology.pool_queue(os.environ["PREFIX"], "openai")],
    task_create_missing_queues=False,
    task_acks_late=True,
    worker_send_task_events=True,
    event_exchange=os.environ["PREFIX"] + ".events",
    control_exchange=os.environ["PREFIX"] + ".control",
    control_queue_exclusive=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="llmgine.step", ignore_result=True)  # type: ignore[untyped-decorator]
def step(job: str, path: str) -> None:
    """Succeeds only with what a hint carries."""
    assert len(job) == 36
    assert path == "notes.3.page"
