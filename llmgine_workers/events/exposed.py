"""Where Prometheus finds the metrics of a process that answers no other HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.events.metrics import Metrics


@contextmanager
def exposed(metrics: Metrics, address: str) -> Iterator[None]:
    """Answer on `host:port`, in a thread of its own; nothing without an address.

    ConfigurationError if the address cannot be listened on.
    """
    if not address:
        yield
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(
            int(port), host.strip("[]"), registry=metrics.registry
        )
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"telemetry.metrics = {address!r}: {error}") from None
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
