"""A simulator per test, and the services' own SDKs pointed at it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import cache
from typing import Any, Protocol

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from llmgine_workers.simulator import Simulator, SimulatorConfig


class Start(Protocol):
    async def __call__(self, **options: Any) -> Simulator: ...


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start simulators with any options; all are stopped after the test."""
    async with AsyncExitStack() as stack:

        async def one(**options: Any) -> Simulator:
            return await stack.enter_async_context(Simulator(SimulatorConfig(**options)))

        yield one


@pytest.fixture
async def simulator(start: Start) -> Simulator:
    return await start()


async def ask_openai(simulator: Simulator, text: str, **options: Any) -> Any:
    """One call through the real SDK; a stream is read to its end, as a list."""
    options = {"model": "gpt-5-mini", "messages": user(text), **options}
    reply = await openai_sdk(simulator).chat.completions.create(**options)
    return [chunk async for chunk in reply] if options.get("stream") else reply


async def ask_anthropic(simulator: Simulator, text: str, **options: Any) -> Any:
    """One call through the real SDK; a stream is read to its end, as a list."""
    fixed: dict[str, Any] = {"model": "claude-haiku-5", "max_tokens": 1000}
    options = {**fixed, "messages": user(text), **options}
    reply = await anthropic_sdk(simulator).messages.create(**options)
    return [event async for event in reply] if options.get("stream") else reply


ASK = {"openai": ask_openai, "anthropic": ask_anthropic}


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


# A client costs 20 ms to build, most of it its TLS context; copies of one share it.
@cache
def shared_openai() -> AsyncOpenAI:
    return AsyncOpenAI(base_url="http://unset", api_key="key", max_retries=0)


@cache
def shared_anthropic() -> AsyncAnthropic:
    return AsyncAnthropic(base_url="http://unset", api_key="key", max_retries=0)


@pytest.fixture(scope="session", autouse=True)
async def close_shared() -> AsyncIterator[None]:
    yield
    await shared_openai().close()
    await shared_anthropic().close()


def openai_sdk(simulator: Simulator) -> AsyncOpenAI:
    return shared_openai().with_options(base_url=f"{simulator.url}/v1")


def anthropic_sdk(simulator: Simulator, key: str = "key") -> AsyncAnthropic:
    return shared_anthropic().with_options(base_url=simulator.url, api_key=key)


def identity(
    job: str = "j1", step: str = "draft", attempt: int = 1, fence: int = 1
) -> dict[str, str]:
    return {
        "x-llmgine-job": job,
        "x-llmgine-step": step,
        "x-llmgine-attempt": str(attempt),
        "x-llmgine-fence": str(fence),
    }


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a condition; fails when it does not come true in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  nobody could set an event
            await asyncio.sleep(0.005)
