"""`llmgine up`: the whole installation on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from llmgine_workers.cli import local_broker, state, terminal
from llmgine_workers.cli.invocation import Invocation
from llmgine_workers.cli.stack import Stack
from llmgine_workers.errors import LlmgineError

# Slow enough to be read as it streams, like a real model.
_PACE = ("--latency", "lognormal:1.5,4", "--first-token", "0.3", "--chunks", "40")


async def run(given: Invocation, *, reset: bool) -> None:
    """Start, say where everything is, keep it running, stop at SIGINT or SIGTERM."""
    with state.held():
        if reset:
            state.forget()
        settings = given.written_settings()
        data = state.HOME / "data" / "rabbitmq"
        stack = Stack(
            home=state.HOME,
            given=settings,
            broker=await local_broker.choose(settings.broker.url, data),
            environ=given.environ,
            say=terminal.note,
            pace=_PACE,
        )
        terminal.note("starting ...")
        await _until_stopped(stack)


async def _until_stopped(stack: Stack) -> None:
    stop = _signals(stack)
    try:
        if await _ended(stack.start(), stop):
            _banner(stack)
            await _ended(stack.keep(), stop)
    finally:
        terminal.note("stopping ...")
        await stack.stop()


def _signals(stack: Stack) -> asyncio.Event:
    """Set by the first signal; the second one waits for nothing."""
    stop = asyncio.Event()

    def heard() -> None:
        if stop.is_set():
            stack.kill()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, heard)
    return stop


async def _ended(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Whether the work came to its end before the signal did."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        working.result()
        return True
    working.cancel()
    with suppress(asyncio.CancelledError, LlmgineError):
        await working
    return False


def _banner(stack: Stack) -> None:
    say, flower = terminal.say, stack.given.flower
    say(f"gateway    {stack.url}   (described by {stack.url}/openapi.json)")
    say(f"key        {state.KEY}")
    place = "as in the environment"
    if not stack.environ.get(flower.password_env):
        place = f"user and password in {state.FLOWER}"
    say(f"Flower     {stack.flower_url}   ({place})")
    say(f"broker     {stack.broker.banner}")
    for name, provider in stack.settings.providers.items():
        say(f"provider   {name}: {_realness(stack, name, provider.base_url)}")
    say(f"logs       {state.LOGS}")
    say("try        llmgine submit summarize -i text=@README.md --watch")
    say(
        f"or         curl -s '{stack.url}/v1/jobs?wait=30' "
        f'-H "Authorization: Bearer $(cat {state.KEY})" '
        "-H 'Content-Type: application/json' "
        """-d '{"chain":"summarize","inputs":{"text":"..."}}'"""
    )
    say("Ctrl-C stops everything; the jobs stay (llmgine up --reset forgets them)")


def _realness(stack: Stack, name: str, base_url: str | None) -> str:
    if name in stack.simulated:
        variable = stack.given.providers[name].key_env
        return f"SIMULATED, free of charge (set {variable} for the real one)"
    return f"real ({base_url or 'its public address'}): calls cost money"
