"""Threads for Flower's remote control, which a stop need not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class DaemonThreads(ThreadPoolExecutor):
    """A daemon thread for each call; asyncio insists on the class.

    kombu waits without a limit for a broker that has fallen silent, and Python would
    wait for kombu before it exits. Flower itself bounds how many calls it makes at once.
    """

    def submit(
        self, work: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Run it in a thread of its own."""
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = work(*args, **kwargs)
            except BaseException as error:  # belongs to whoever awaits the future
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=run, name="flower-call", daemon=True).start()
        return future
