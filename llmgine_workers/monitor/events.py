"""The thread that hears the workers' events, and finds the broker again soon."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.events import EventReceiver
from flower.events import Events

RECONNECT_S = 2.0
"""Seconds between attempts. Flower's own pause doubles without bound: after an outage of
ten minutes it stays deaf for as long again."""

_log = logging.getLogger(__name__)


class KeptEvents(Events):  # type: ignore[misc]  # Flower has no annotations
    """Flower's events, heard again within seconds after the broker was lost.

    Flower's own connection has no heartbeat: lost without a word, it stays deaf for good.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._over = threading.Event()

    def run(self) -> None:
        """Hear events until `stop`; the thread is a daemon."""
        while not self._over.is_set():
            try:
                self._hear()
            except Exception as error:  # whatever it was, a deaf monitor is worse
                _log.warning("no events: %s; again in %g s", error, RECONNECT_S)
                self._over.wait(RECONNECT_S)

    def stop(self) -> None:
        """End the thread within a second."""
        super().stop()
        self._over.set()

    def _hear(self) -> None:
        connection = self.capp.connection(heartbeat=self.capp.conf.broker_heartbeat)
        try:
            receiver = Receiver(connection, {"*": self.on_event}, app=self.capp)
            receiver.over = self._over
            receiver.capture(limit=None, timeout=None, wakeup=True)
        except BaseException:
            connection.collect()  # no goodbye: its answer would be waited for for ever
            raise
        connection.release()


class Receiver(EventReceiver):  # type: ignore[misc]
    """Celery's receiver on one connection, with heartbeats while events never pause.

    kombu sends them after a second of silence only, which a few workers never leave;
    RabbitMQ would take the connection for dead again and again.
    """

    over: threading.Event

    @property
    def should_stop(self) -> bool:
        """Asked by kombu before each wait, of a second at most."""
        return self.over.is_set()

    def on_iteration(self) -> None:
        """Called before each wait, too; raises when the broker has gone silent."""
        self.connection.heartbeat_check()

    @contextmanager
    def establish_connection(self) -> Iterator[Any]:
        """The one given; kombu would make a clone, and leave this one without care."""
        yield self.connection
