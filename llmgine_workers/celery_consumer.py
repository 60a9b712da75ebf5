"""What a worker accepts from its queue: hints; the rest goes to the dead letters raw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from celery import bootsteps
from celery.exceptions import InvalidTaskError
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Consumer

from llmgine_workers.alive import TOUCH_S
from llmgine_workers.broker.messages import STEP_TASK

logger = get_logger(__name__)

#: Longest pause between attempts to reach the broker, seconds. kombu's own is 30, which
#: doubles an outage of that length.
RECONNECT_PAUSE_S = 4

#: So long an event for Flower waits for others, seconds: they are one message then, and
#: a message costs a busy worker more than its events.
EVENTS_EVERY_S = 0.1


class HintConsumer(Consumer):  # type: ignore[misc]  # Celery has no annotations
    """Celery's consumer, but what is no hint is rejected without requeue.

    Celery acknowledges what it cannot decode, and ends the worker for a message whose
    body or headers have an unexpected shape.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Without the 28 queues of Celery's delayed delivery: the ledger waits for us."""

        default_steps = [  # noqa: RUF012  # Celery's own is a list
            *(
                step
                for step in Consumer.Blueprint.default_steps
                if not step.endswith(":DelayedDelivery")
            ),
            "llmgine_workers.celery_consumer:StillConsuming",
            "llmgine_workers.celery_consumer:GatheredEvents",
        ]

    gathers_events = False

    def on_send_event_buffered(self) -> None:
        """Send it in this turn of the hub, unless they are sent by the clock."""
        if not self.gathers_events:
            super().on_send_event_buffered()

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying for ever and often; who tries is alive."""
        connect = conn.ensure_connection

        def ensure(errback: Any, retries: Any, callback: Callable[[], None]) -> Any:
            def each_second() -> None:
                self.controller.still_alive()
                callback()

            return connect(
                errback,
                retries,
                callback=each_second,
                interval_start=1,
                interval_step=1,
                interval_max=RECONNECT_PAUSE_S,
            )

        conn.ensure_connection = ensure
        return super().ensure_connected(conn)

    def create_task_handler(self, **options: Any) -> Callable[[Any], None]:
        """Return what the consumer calls for each message of its queue."""
        handle = super().create_task_handler(**options)
        broker_errors = (*self.connection_errors, *self.channel_errors)

        def on_message(message: Any) -> None:
            try:
                _check_hint(message)
                # A revoke is remembered by one process only, for hours, and would make
                # it swallow each later hint for the step: the ledger cancels, not this.
                state.revoked.discard(message.headers["id"])
                handle(message)
            except (*broker_errors, MemoryError):
                raise
            except Exception as exc:  # whatever it is, this message is the reason
                self._reject(message, exc)

        return on_message

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject what kombu could not unpack, unless it is remote control's (no acks)."""
        if message.channel is self.task_consumer.channel:
            self._reject(message, exc)
        else:
            logger.error("unreadable control message: %r", exc)

    def _reject(self, message: Any, exc: Exception) -> None:
        logger.error("rejected a message that is no hint: %r", exc)
        if not message.acknowledged:
            message.reject_log_error(logger, self.connection_errors)


class StillConsuming(bootsteps.StartStopStep):  # type: ignore[misc]
    """Says again and again that the consumer turns; it is silent once it is stuck."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: HintConsumer) -> None:
        """Begin with a connection."""
        self._ticking = c.timer.call_repeatedly(TOUCH_S, c.controller.still_alive)

    def stop(self, c: HintConsumer) -> None:
        """The connection is gone: the next one begins anew."""
        self._ticking.cancel()


class GatheredEvents(bootsteps.StartStopStep):  # type: ignore[misc]
    """Sends events in groups, for as long as the consumer turns."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: HintConsumer) -> None:
        """Begin with a connection."""
        self._ticking = c.timer.call_repeatedly(EVENTS_EVERY_S, c._flush_events)
        c.gathers_events = True

    def stop(self, c: HintConsumer) -> None:
        """What comes from now on, while the last calls end, goes at once."""
        c.gathers_events = False
        self._ticking.cancel()
        c.on_send_event_buffered()


def _check_hint(message: Any) -> None:
    """Raise unless the message asks for our task with a job and a path, now, no more."""
    headers = message.headers
    if headers.get("task") != STEP_TASK:
        raise InvalidTaskError(f"unknown task {headers.get('task')!r}")
    if not isinstance(headers.get("id"), str):
        raise InvalidTaskError("no task id")
    if headers.get("eta") or headers.get("expires"):
        raise InvalidTaskError("hints are for now")
    match message.decode():
        case [[str(job), str()], {**kwargs}, {**embed}] if not kwargs:
            if UUID(job) and not any(embed.values()):
                return
    raise InvalidTaskError("the body is not [[job, path], {}, {}]")
