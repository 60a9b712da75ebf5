"""Both wires against the simulated provider, and a server that answers given bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest

from llmgine_workers.llm import Delta, LlmAnswer, LlmRequest, Message
from llmgine_workers.providers import rows
from llmgine_workers.providers.anthropic_wire import AnthropicWire
from llmgine_workers.providers.exchange import HttpProvider
from llmgine_workers.providers.openai_wire import OpenAIWire
from llmgine_workers.providers.wire import Wire
from llmgine_workers.simulator import Latency, Simulator, SimulatorConfig

KEY = "sk-test-0123456789abcdef"
JOB = {
    "x-llmgine-job": "0193c1f2",
    "x-llmgine-step": "draft",
    "x-llmgine-attempt": "2",
    "x-llmgine-fence": "7",
}


@dataclass(frozen=True)
class Side:
    """One wire format, and where a server of it lives under an origin."""

    name: str
    wire: Wire
    service: rows.Service
    model: str
    under: str

    def open(self, origin: str, *, idle_s: float | None = None) -> HttpProvider:
        service = self.service
        if idle_s is not None:
            service = replace(service, idle_s=idle_s)
        return HttpProvider(
            self.name, self.wire, service, url=origin + self.under, key=KEY
        )

    def request(self, prompt: str, **fields: object) -> LlmRequest:
        whole = {"messages": (Message("user", prompt),), "max_tokens": 300, **fields}
        return LlmRequest(self.model, **whole)  # type: ignore[arg-type]


OPENAI = Side("openai", OpenAIWire(), rows.OPENAI, "gpt-5-mini", "/v1")
ANTHROPIC = Side("anthropic", AnthropicWire(), rows.ANTHROPIC, "claude-haiku-5", "")
SIDES = {side.name: side for side in (OPENAI, ANTHROPIC)}


@dataclass
class Pieces:
    """Remembers what was streamed."""

    deltas: list[Delta] = field(default_factory=list)

    async def __call__(self, delta: Delta) -> None:
        self.deltas.append(delta)

    @property
    def text(self) -> str:
        return "".join(delta.text or "" for delta in self.deltas)


@pytest.fixture(params=sorted(SIDES))
def side(request: pytest.FixtureRequest) -> Side:
    return SIDES[request.param]


@pytest.fixture(scope="session")
async def simulator() -> AsyncIterator[Simulator]:
    config = SimulatorConfig(seed=3, latency=Latency(0.01), cached_share=0.25)
    async with Simulator(config) as running:
        yield running


@pytest.fixture
async def provider(side: Side, simulator: Simulator) -> AsyncIterator[HttpProvider]:
    opened = side.open(simulator.url)
    yield opened
    await opened.close()


Call = Callable[..., Awaitable[LlmAnswer]]


@pytest.fixture
def call(provider: HttpProvider, side: Side) -> Call:
    """Call the simulated provider with a prompt and fields of the request."""

    async def calling(
        prompt: str,
        *,
        timeout_s: float = 5.0,
        on_delta: Pieces | None = None,
        **fields: object,
    ) -> LlmAnswer:
        return await provider.call(
            side.request(prompt, **fields),
            timeout_s=timeout_s,
            headers=JOB,
            on_delta=on_delta,
        )

    return calling


async def until(condition: Callable[[], bool]) -> None:
    """Wait at most 2 s for something that happens elsewhere."""
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError


@dataclass
class Seen:
    """What a server of `answering` saw: connections, requests, clients that left."""

    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    left: int = 0


@asynccontextmanager
async def answering(
    pieces: Sequence[bytes], *, then_hang: bool = False, seen: Seen | None = None
) -> AsyncIterator[str]:
    """A server that reads a request, writes these pieces one by one and closes.

    It closes only if the head says so: else it takes the next request.
    """
    log = seen or Seen()
    closes = b"HTTP/" not in pieces[0] or b"Connection: close" in pieces[0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        log.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await answer(reader, writer)
            while not closes:
                await answer(reader, writer)
        writer.close()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split()[0])
        log.requests.append(head + await reader.readexactly(size))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)
        if then_hang:
            await reader.read()
            log.left += 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()


def head(status: str = "200 OK", *headers: str, kind: str = "text/event-stream") -> bytes:
    """The head of an answer; without headers of its own it ends with its connection."""
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        *(headers or ("Connection: close",)),
    )
    return "\r\n".join((*lines, "", "")).encode()
