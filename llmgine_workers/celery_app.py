"""The Celery application of a worker: its settings, its one task, its program."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn, assert_never

from celery import Celery
from celery.apps.worker import Worker
from celery.exceptions import Ignore, ImproperlyConfigured
from celery.exceptions import Retry as CeleryRetry
from celery.utils.nodenames import default_nodename, nodesplit
from kombu.entity import Queue

from llmgine_workers.broker.messages import STEP_TASK
from llmgine_workers.engine.outcome import (
    Dead,
    Done,
    Failover,
    Outcome,
    Retry,
    Skip,
    Wait,
)
from llmgine_workers.errors import ConfigurationError, DependencyDown
from llmgine_workers.loop_thread import await_on_loop, worker_loop

#: Exit statuses of sysexits.h, as the command line has them.
EX_UNAVAILABLE = 69
EX_CONFIG = 78

RunHint = Callable[[str, str], Coroutine[Any, Any, Outcome]]
Lifespan = Callable[[int], AbstractAsyncContextManager[Any]]


@dataclass(frozen=True)
class Program:
    """What a worker does. All of it runs on the worker's loop.

    `run_hint(job, path)` is run for each hint. `lifespan(slots)` is entered before the
    first and left after the last; its `slots` is `--concurrency` if given, else the
    application's. `touch` is called every few seconds, while consumer and loop turn.
    """

    run_hint: RunHint
    lifespan: Lifespan = lambda slots: nullcontext()
    touch: Callable[[], None] = lambda: None


class DeadStep(Exception):
    """The step has failed for good; what Flower shows beside FAILURE."""


class WaitingStep(CeleryRetry):  # type: ignore[misc]  # Celery has no annotations
    """The step goes on later or elsewhere; what Flower shows beside RETRY.

    Raised as it is, Celery publishes nothing: the ledger wakes the step.
    """

    def __repr__(self) -> str:
        return str(self)


def make_app(
    broker_url: str,
    prefix: str,
    queues: Sequence[Queue],
    program: Program,
    *,
    slots: int,
) -> Celery:
    """Build the application; `queues` are only consumed from, one per process."""
    app = Celery(prefix, set_as_current=False)
    app.conf.update(_settings(prefix, queues, slots), broker_url=broker_url)
    app.Worker = app.subclass_with_self(StepWorker, program=program)

    def step(job: str, path: str) -> None:
        _conclude(await_on_loop(program.run_hint(job, path)))

    # Not shared: two applications in one process have each their own. `throws`: a dead
    # letter tells it all, so the log needs no traceback.
    app.task(step, name=STEP_TASK, shared=False, throws=(DeadStep,))
    return app


def _settings(prefix: str, queues: Sequence[Queue], slots: int) -> dict[str, Any]:
    return {
        "worker_pool": "llmgine_workers.celery_pool:TaskPool",
        "worker_consumer": "llmgine_workers.celery_consumer:HintConsumer",
        "worker_concurrency": slots,
        "worker_prefetch_multiplier": 1,
        "task_queues": list(queues),
        "task_create_missing_queues": False,
        # A hint is acknowledged when the ledger has the outcome, a failure included.
        "task_acks_late": True,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "task_reject_on_worker_lost": False,
        # Results and errors are the ledger's.
        "result_backend": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        # Never `confirm_publish` here: task events would wait for a stalled broker.
        "broker_transport_options": {},
        "broker_heartbeat": 20,
        "broker_connection_timeout": 4,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        # Calls in flight are paid for: a lost broker connection is no reason to end them.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_prefetch_count_reduction": False,
        "worker_disable_rate_limits": True,
        "worker_soft_shutdown_timeout": 0.0,
        # Flower shows tasks by their events and the queues of workers that answer.
        "worker_send_task_events": True,
        "task_send_sent_event": False,
        "worker_enable_remote_control": True,
        # An exclusive control queue outlives a half-open connection and then locks its
        # own worker out; RabbitMQ 4.3 refuses transient ones that are not exclusive.
        "control_queue_exclusive": False,
        "control_queue_durable": True,
        # Installations that share a broker do not see each other's workers.
        "control_exchange": f"{prefix}.control",
        "event_exchange": f"{prefix}.events",
        "event_queue_prefix": f"{prefix}.events",
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }


def _conclude(outcome: Outcome) -> None:
    """Tell Celery an outcome in its own terms; all of them acknowledge the hint."""
    match outcome:
        case Done():
            return
        case Skip(reason):
            raise Ignore(reason)
        case Wait(reason, until) | Retry(reason, until):
            name = type(outcome).__name__.lower()
            when = until.isoformat(timespec="milliseconds")
            raise WaitingStep(f"{name} until {when}: {reason}")
        case Failover(pool, reason):
            raise WaitingStep(f"goes on in pool {pool}" + (reason and f": {reason}"))
        case Dead(code, message, exception):
            raise DeadStep(f"{code}: {message}" + (exception and f" ({exception})"))
        case _:
            assert_never(outcome)


class StepWorker(Worker):  # type: ignore[misc]
    """Celery's worker program, serving one queue, with the runtime around it."""

    program: Program

    def __init__(
        self,
        app: Celery | None = None,
        hostname: str | None = None,
        queues: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        # Gossip and mingle make every worker read every other's events: traffic grows
        # with the square of the fleet, for features (elections, revokes) we do not use.
        options.update(without_gossip=True, without_mingle=True)
        name = _node_name(hostname, queues)
        super().__init__(app=app, hostname=name, queues=queues, **options)

    def setup_queues(self, include: Any, exclude: Any = None) -> None:
        """Select the queue; exit with 78 unless it is exactly one that exists."""
        known = ", ".join(sorted(self.app.amqp.queues))
        try:
            super().setup_queues(include, exclude)
        except ImproperlyConfigured:
            _stop(f"no such queue: {include}. There are: {known}")
        chosen = sorted(self.app.amqp.queues.consume_from)
        if len(chosen) != 1:
            # Prefetch counts per queue: with two, half the hints would lie idle here.
            _stop(
                f"a worker process serves one queue, got {len(chosen)} "
                f"({', '.join(chosen)}): start one process for each, with -Q"
            )

    def still_alive(self) -> None:
        """The consumer's thread turns; the loop's says the rest, if it does."""
        worker_loop.start().call_soon_threadsafe(self.program.touch)

    def start(self) -> None:
        """Run until told to stop, inside the lifespan.

        Exits with 78 or 69 when the lifespan finds the settings or the stores unfit.
        """
        try:
            with worker_loop.holding(self.program.lifespan(self.concurrency)):
                super().start()
        except ConfigurationError as exc:
            _stop(str(exc))
        except DependencyDown as exc:
            _stop(str(exc), EX_UNAVAILABLE)
        finally:
            worker_loop.stop()


def _node_name(hostname: str | None, queues: Sequence[str] | None) -> str:
    """Make Celery's default name tell the pool, and unique where several run."""
    default = default_nodename(None)
    if hostname not in (None, default):
        return str(hostname)
    served = "-".join(queues or ["llmgine"])
    return f"{served}.{os.getpid()}@{nodesplit(default)[1]}"


def _stop(message: str, status: int = EX_CONFIG) -> NoReturn:
    sys.stderr.write(f"llmgine: {message}\n")
    raise SystemExit(status)
