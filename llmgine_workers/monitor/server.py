"""Flower in this process: its options, its application, its start and its clean stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from typing import Any

from celery import Celery
from flower.app import Flower, rewrite_handler
from flower.options import options
from flower.urls import settings as web_settings
from flower.utils import prepend_url
from tornado.ioloop import IOLoop
from tornado.routing import URLSpec
from tornado.web import url

from llmgine_workers.broker import open_broker, topology
from llmgine_workers.celery_app import Program, make_app
from llmgine_workers.engine.outcome import Outcome
from llmgine_workers.errors import ConfigurationError
from llmgine_workers.ledger import schema
from llmgine_workers.monitor import letters
from llmgine_workers.monitor.events import KeptEvents
from llmgine_workers.monitor.pages import Pages
from llmgine_workers.monitor.queues import BrokerPage, QueueLengths, Queues, pools
from llmgine_workers.monitor.rooms import Rooms
from llmgine_workers.monitor.threads import DaemonThreads
from llmgine_workers.settings import FlowerSettings, Settings

HANDLERS: list[URLSpec] = [
    url(r"/broker", BrokerPage, name="our broker"),
    url(r"/api/queues/length", QueueLengths),
    *letters.HANDLERS,
]
"""Our pages, asked before Flower's own. One page more is one line more: a handler that
derives from `flower.views.BaseHandler`, each method under `tornado.web.authenticated`.
"""

MAX_TASKS = 10_000
"""Tasks remembered: 36 MB at 3.6 KB each (measured); Flower's default is 100,000."""

FORGET_WORKERS_S = 600
"""Every start of a worker has a new name; the ended ones leave the Workers page."""

COLUMNS = "name,state,exception,received,runtime,uuid,args,worker"
"""`args` holds chain, step path and job, so that a job can be searched for."""


def serve(
    settings: Settings, environ: Mapping[str, str], *, read_only: bool = False
) -> None:
    """Run until SIGTERM or SIGINT; returns after a clean stop. Main thread only.

    ConfigurationError without user or password, or if the address cannot be listened on.
    """
    _set_options(settings.flower, environ, read_only)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        broker = open_broker(settings.broker.url, settings.broker.prefix)
        rooms = Rooms.of(settings, environ, broker)
        monitor = Monitor(_application(settings), Queues(broker, settings), rooms)
        runner.run(schema.verify_if_there(rooms.ledger))
        _listen(monitor, settings.flower.listen)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, monitor.stop)
        monitor.start()
        runner.run(rooms.close())


class Monitor(Flower):  # type: ignore[misc]  # Flower has no annotations
    """Flower's web application with our pages, our queues and our kept events."""

    pool_executor_cls = DaemonThreads

    def __init__(self, app: Celery, queues: Queues, rooms: Rooms) -> None:
        io_loop = IOLoop.current()
        events = KeptEvents(
            app,
            io_loop,
            enable_events=False,  # our workers always send them
            max_tasks_in_memory=options.max_tasks,
            max_workers_in_memory=options.max_workers,
        )
        super().__init__(options, app, events, io_loop, **_web_settings())
        self.queues = queues
        self.rooms = rooms
        prefix = options.url_prefix
        ours = [rewrite_handler(h, prefix) for h in HANDLERS] if prefix else HANDLERS
        self.add_handlers(r".*", ours)

    def log_request(self, handler: Any) -> None:
        """Nothing: open pages ask every second."""


def _web_settings() -> dict[str, Any]:
    """Flower's own, below the prefix, with our templates before its own."""
    found = {**web_settings, "template_loader": Pages(web_settings["template_path"])}
    if options.url_prefix:
        for name in ("login_url", "static_url_prefix"):
            found[name] = prepend_url(found[name], options.url_prefix)
    return found


def _set_options(
    flower: FlowerSettings, environ: Mapping[str, str], read_only: bool
) -> None:
    """Flower keeps its options in one object per process, which its views read, too."""
    options.basic_auth = [_credentials(flower, environ)]
    options.read_only = read_only
    options.url_prefix = flower.url_prefix
    options.max_tasks = MAX_TASKS
    options.purge_offline_workers = FORGET_WORKERS_S
    options.tasks_columns = COLUMNS


def _credentials(flower: FlowerSettings, environ: Mapping[str, str]) -> str:
    names = (flower.user_env, flower.password_env)
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise ConfigurationError(
            f"Flower needs a user and a password: set {' and '.join(missing)} "
            "(without them its pages would be open to everybody)"
        )
    for name in names:
        if not environ[name].isascii():  # Flower compares ASCII only, and fails on others
            raise ConfigurationError(f"{name} must be ASCII")
    return ":".join(environ[name] for name in names)


def _application(settings: Settings) -> Celery:
    """The workers' Celery settings: the same exchanges for events and remote control."""
    prefix = settings.broker.prefix
    queues = [topology.pool_queue(prefix, pool) for pool in pools(settings)]
    app = make_app(settings.broker.url, prefix, queues, Program(_run_nothing), slots=1)
    # Remote control is rare here, and RabbitMQ closes a pooled connection that idles.
    app.conf.broker_pool_limit = 0
    # Fail soon while the broker is away.
    app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0}
    app.set_default()  # Flower's templates ask the current application
    return app


async def _run_nothing(job: str, path: str) -> Outcome:
    raise AssertionError(f"Flower runs no steps: {job} {path}")


def _listen(monitor: Monitor, address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        options.address, options.port = host.strip("[]"), int(port)
        monitor.start_http_server()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"flower.listen = {address!r}: {error}") from None
    sys.stderr.write(f"llmgine: Flower listens at http://{address}\n")
