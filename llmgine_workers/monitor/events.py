"""The thread that hears the workers' events, and finds the broker again soon."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NoReturn

from celery.events import EventReceiver
from flower.events import Events

RECONNECT_S = 2.0
"""Seconds between attempts. Flower's own pause doubles without bound: after a broker's
outage of ten minutes it stays blind for as long again."""

_log = logging.getLogger(__name__)


class KeptEvents(Events):  # type: ignore[misc]  # Flower has no annotations
    """Flower's events, heard again within seconds of a broken connection."""

    def run(self) -> NoReturn:
        """Hear events for as long as the process lives; the thread is a daemon."""
        while True:
            try:
                with self.capp.connection() as connection:
                    _hear(connection, self.capp, self.on_event)
            except Exception as error:  # whatever it was, a deaf monitor is worse
                _log.warning("no events: %s; again in %g s", error, RECONNECT_S)
            time.sleep(RECONNECT_S)


def _hear(connection: Any, app: Any, on_event: Callable[[Any], None]) -> None:
    receiver = _Receiver(connection, handlers={"*": on_event}, app=app)
    receiver.capture(limit=None, timeout=None, wakeup=True)


class _Receiver(EventReceiver):  # type: ignore[misc]
    """Keeps its heartbeat also while events never pause.

    kombu sends heartbeats only after a second of silence, which three workers never
    leave: RabbitMQ would take the connection for dead, again and again.
    """

    connect_max_retries = 1
    _connection: Any = None

    def on_consume_ready(self, connection: Any, *args: Any, **options: Any) -> None:
        super().on_consume_ready(connection, *args, **options)
        self._connection = connection

    def on_iteration(self) -> None:
        self._connection.heartbeat_check()
