"""Facts as Prometheus metrics: what this process did, and what the scheduler counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    exposition,
)

from llmgine_workers.events import facts
from llmgine_workers.events.facts import Fact
from llmgine_workers.settings import TOOLS_POOL

CONTENT_TYPE = exposition.CONTENT_TYPE_PLAIN_0_0_4
CALL_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
"""Calls of models: from a cached answer to the longest default time-out."""
REQUEST_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 60)
"""Answers of the gateway; the long ones waited for a job."""


class Metrics:
    """The handler that counts, and the registry of one process.

    Labels are bounded by the settings: pools, models, codes and states, never ids.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._count: dict[type[Fact], Callable[[Any], None]] = {
            facts.JobQueued: lambda _: self._jobs_queued.inc(),
            facts.JobFinished: lambda f: self._jobs_finished.labels(f.state).inc(),
            facts.StepStarted: lambda f: self._in_flight.labels(pool_of(f.model)).inc(),
            facts.AttemptFinished: self._attempt,
            facts.StepWaiting: lambda f: self._waits.labels(f.waiting["reason"]).inc(),
            facts.StepFailedOver: lambda f: self._failovers.labels(f.model).inc(),
            facts.LimitRefused: lambda f: self._refusals.labels(f.provider).inc(),
            facts.GateClosed: lambda f: self._shut.labels(f.provider, f.reason).inc(),
            facts.LeaseLost: lambda _: self._leases_lost.inc(),
            facts.PublishFailed: lambda f: self._unpublished.labels(f.pool).inc(f.count),
            facts.LetterRecorded: lambda f: self._letters.labels(f.code).inc(),
        }
        self._define_work()
        self._define_pools()

    def wants(self, kind: type[Fact]) -> bool:
        """What is counted."""
        return kind in self._count

    async def handle(self, told: Sequence[Fact]) -> None:
        """Count each."""
        for fact in told:
            self._count[type(fact)](fact)

    async def close(self) -> None:
        """Nothing is held."""

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return exposition.generate_latest(self.registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One answered HTTP request; `route` is its template."""
        self._requests.labels(method, route, status).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def pool(self, pool: str, numbers: dict[str, float]) -> None:
        """A pool as the scheduler sees it: steps by state, and what serves them."""
        for state in ("queued", "running", "waiting"):
            self._steps.labels(pool, state).set(numbers[state])
        self._oldest.labels(pool).set(numbers["oldest_s"])
        self._workers.labels(pool).set(numbers["workers"])
        self._slots.labels(pool).set(numbers["slots"])

    def open_letters(self, count: int) -> None:
        """Dead letters that nobody has dealt with."""
        self._open_letters.set(count)

    def _attempt(self, fact: facts.AttemptFinished) -> None:
        pool, model = pool_of(fact.model), fact.model or ""
        self._in_flight.labels(pool).dec()
        code = fact.error.code if fact.error else ""
        self._attempts.labels(pool, model, fact.state, code).inc()
        took_s = (fact.at - fact.started_at).total_seconds()
        self._call_seconds.labels(pool, model).observe(took_s)
        if fact.first_token_at:
            first_s = (fact.first_token_at - fact.started_at).total_seconds()
            self._first_token_seconds.labels(pool, model).observe(first_s)
        if fact.usage:
            for kind in ("input", "cached_input", "output", "reasoning"):
                tokens = getattr(fact.usage, f"{kind}_tokens")
                self._tokens.labels(pool, model, kind).inc(tokens)
        if fact.cost_usd:
            self._cost.labels(pool, model).inc(fact.cost_usd)

    def _define_work(self) -> None:
        of_call = ("pool", "model")
        self._jobs_queued = self._counter("jobs_accepted", "Jobs accepted here.")
        self._jobs_finished = self._counter("jobs_finished", "Jobs by end.", "state")
        self._attempts = self._counter(
            "attempts", "Physical calls that ended.", *of_call, "state", "code"
        )
        self._tokens = self._counter("tokens", "Tokens, as reported.", *of_call, "kind")
        self._cost = self._counter("cost_usd", "Dollars, where priced.", *of_call)
        self._waits = self._counter("waits", "Steps told to wait, by reason.", "reason")
        self._failovers = self._counter("failovers", "Steps moved to a model.", "model")
        self._refusals = self._counter(
            "limit_refusals", "No room in a limit.", "provider"
        )
        self._shut = self._counter("gates_closed", "Gates shut.", "provider", "reason")
        self._leases_lost = self._counter("leases_lost", "Steps of lost workers.")
        self._unpublished = self._counter("hints_unconfirmed", "Sent again.", "pool")
        self._letters = self._counter("letters", "Dead letters written.", "code")
        self._requests = self._counter(
            "http_requests", "Requests answered.", "method", "route", "status"
        )
        self._in_flight = self._gauge("calls_in_flight", "Calls open here.", "pool")
        self._call_seconds = self._histogram(
            "call_seconds", "From claim to answer.", CALL_BUCKETS_S, *of_call
        )
        self._first_token_seconds = self._histogram(
            "first_token_seconds", "From claim to first token.", CALL_BUCKETS_S, *of_call
        )
        self._request_seconds = self._histogram(
            "http_request_seconds",
            "Of the gateway.",
            REQUEST_BUCKETS_S,
            "method",
            "route",
        )

    def _define_pools(self) -> None:
        self._steps = self._gauge("pool_steps", "Unfinished steps.", "pool", "state")
        self._oldest = self._gauge(
            "pool_oldest_seconds", "Age of the oldest queued step.", "pool"
        )
        self._workers = self._gauge("pool_workers", "Workers that beat.", "pool")
        self._slots = self._gauge("pool_slots", "Slots of these workers.", "pool")
        self._open_letters = self._gauge("letters_open", "Dead letters that are open.")

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"llmgine_{name}", says, labels, registry=self.registry)

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(f"llmgine_{name}", says, labels, registry=self.registry)

    def _histogram(
        self, name: str, says: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        return Histogram(
            f"llmgine_{name}", says, labels, buckets=buckets, registry=self.registry
        )


def pool_of(model: str | None) -> str:
    """A model's pool; what calls no model is a tool."""
    return model.partition("/")[0] if model else TOOLS_POOL
