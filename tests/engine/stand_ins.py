"""Stand-ins at the seams the design names: a provider, a broker, an ear for facts."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmgine_workers.broker import DeadMessage, Judge, Message
from llmgine_workers.broker.messages import dead
from llmgine_workers.errors import Failure
from llmgine_workers.events.facts import Fact
from llmgine_workers.llm import (
    CallFailed,
    Embedded,
    EmbedRequest,
    LlmAnswer,
    LlmRequest,
    OnDelta,
    Usage,
)

USAGE = Usage(calls=1, input_tokens=100, output_tokens=20)
USAGE_OF_TEXTS = Usage(calls=1, input_tokens=100)


def answer(text: str = "fine", usage: Usage = USAGE) -> LlmAnswer:
    """A whole answer."""
    return LlmAnswer(text, "stop", "test-model", usage, 200, "req_1")


def failing(
    code: str,
    message: str = "it does not work",
    *,
    before_first_byte: bool = False,
    retry_after_s: float | None = None,
) -> CallFailed:
    """A failure of the table of codes."""
    return CallFailed(
        Failure(code, message, model="openai/test-model"),
        before_first_byte=before_first_byte,
        retry_after_s=retry_after_s,
    )


Behaviour = LlmAnswer | BaseException | Callable[[], Awaitable[LlmAnswer]]


@dataclass(eq=False)
class Call:
    """What the provider saw of one call."""

    request: LlmRequest
    headers: Mapping[str, str]
    timeout_s: float

    @property
    def step(self) -> tuple[str, str]:
        """Job and path."""
        return self.headers["x-llmgine-job"], self.headers["x-llmgine-step"]


@dataclass
class StandIn:
    """A provider: does what it was told next, then what it does by default.

    While it is held its calls stay open: `end` ends the one of a step, `let_go` all.
    """

    default: Behaviour = field(default_factory=answer)
    calls: list[Call] = field(default_factory=list)
    embeds: list[EmbedRequest] = field(default_factory=list)
    open: list[tuple[Call, asyncio.Future[Behaviour]]] = field(default_factory=list)
    finished: int = 0
    _next: list[Behaviour] = field(default_factory=list)
    _held: bool = False

    def will(self, *behaviours: Behaviour) -> None:
        """What the next calls do, in their order."""
        self._next.extend(behaviours)

    def hold(self) -> None:
        """Leave every call open from now on."""
        self._held = True

    def let_go(self) -> None:
        """End all open calls, each as it was told, and hold no more."""
        self._held = False
        while self.open:
            self.end(self.open[0][0], self._behaviour())

    def end(self, which: Call | str, behaviour: Behaviour) -> None:
        """End an open call, or the oldest one of a path."""
        (found, *_) = [one for one in self.open if which in (one[0], one[0].step[1])]
        self.open.remove(found)
        if not found[1].done():
            found[1].set_result(behaviour)

    async def call(
        self,
        request: LlmRequest,
        *,
        timeout_s: float,
        headers: Mapping[str, str],
        on_delta: OnDelta | None = None,
    ) -> LlmAnswer:
        """One call."""
        call = Call(request, headers, timeout_s)
        self.calls.append(call)
        if self._held:
            self.open.append((call, asyncio.get_running_loop().create_future()))
            behaviour = await self.open[-1][1]
        else:
            behaviour = self._behaviour()
        if isinstance(behaviour, BaseException):
            raise behaviour
        found = behaviour if isinstance(behaviour, LlmAnswer) else await behaviour()
        self.finished += 1
        return found

    async def embed(
        self, request: EmbedRequest, *, timeout_s: float, headers: Mapping[str, str]
    ) -> Embedded:
        """One call for vectors: how long each text is, and 1; or what `will` says."""
        self.embeds.append(request)
        if self._next:
            behaviour = self._next.pop(0)
            assert isinstance(behaviour, BaseException)
            raise behaviour
        vectors = [[float(len(text)), 1.0] for text in request.texts]
        return Embedded(vectors, "test-model", USAGE_OF_TEXTS, 200, "req_1")

    async def close(self) -> None:
        """Nothing is open."""

    def _behaviour(self) -> Behaviour:
        return self._next.pop(0) if self._next else self.default


class Ear:
    """A handler of facts that keeps them."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def wants(self, kind: type[Fact]) -> bool:
        """Everything."""
        return True

    async def handle(self, facts: Sequence[Fact]) -> None:
        """Keep them."""
        self.facts.extend(facts)

    async def close(self) -> None:
        """Nothing is held back."""

    def heard(self, kind: type[Any]) -> list[Any]:
        """The facts of one kind in their order."""
        return [fact for fact in self.facts if isinstance(fact, kind)]


class MemoryBroker:
    """The four verbs over lists: what is published stays until it is taken."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.up = True
        self.queues: dict[str, list[Message]] = defaultdict(list)

    async def publish(self, queue: str, messages: Sequence[Message]) -> list[Message]:
        """Everything is confirmed while it is up, and nothing else."""
        if not self.up:
            return list(messages)
        self.queues[queue].extend(messages)
        return []

    async def depth(self, queue: str) -> int | None:
        """How many messages are there."""
        return len(self.queues[queue]) if self.up else None

    async def mirror(self, judge: Judge) -> int:
        """One pass over the dead letters."""
        queue = f"{self.prefix}.dead"
        found, self.queues[queue] = self.queues[queue], []
        verdicts = await judge([self._as_seen(message) for message in found])
        kept = [m for m, keep in zip(found, verdicts, strict=True) if keep]
        self.queues[queue] = kept + self.queues[queue]
        return len(found)

    async def close(self) -> None:
        """Nothing is open."""

    @staticmethod
    def _as_seen(message: Message) -> DeadMessage:
        return dead(message)
