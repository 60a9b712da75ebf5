"""`llmgine up`: the whole installation on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llmgine_workers.cli import terminal
from llmgine_workers.cli.api import STATE
from llmgine_workers.cli.invocation import Invocation
from llmgine_workers.cli.stack import Stack
from llmgine_workers.errors import LlmgineError

# Slow enough to be read as it streams, like a real model.
_PACE = ("--latency", "lognormal:1.5,4", "--first-token", "0.3", "--chunks", "40")


class AlreadyRunning(LlmgineError):
    """Another `up` runs in this directory."""

    code = "already_running"


async def run(given: Invocation, *, reset: bool) -> None:
    """Start, say where everything is, keep it running, stop at SIGINT or SIGTERM."""
    with _alone(STATE, reset=reset):
        stack = Stack(
            home=STATE,
            given=given.settings(),
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


@contextmanager
def _alone(home: Path, *, reset: bool) -> Iterator[None]:
    """Hold the directory; AlreadyRunning if another process does."""
    home.mkdir(mode=0o700, exist_ok=True)
    lock = home / "lock"
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunning(
                f"another llmgine up runs in {home.parent.absolute()}"
            ) from None
        if reset:
            _empty(home, lock)
        yield


def _empty(home: Path, lock: Path) -> None:
    for entry in home.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry != lock:
            entry.unlink()


def _banner(stack: Stack) -> None:
    say, flower = terminal.say, stack.given.flower
    say(f"gateway    {stack.url}   (described by {stack.url}/openapi.json)")
    say(f"key        {STATE / 'key'}")
    place = "as in the environment"
    if not stack.environ.get(flower.password_env):
        place = f"user and password in {STATE / 'flower'}"
    say(f"Flower     {stack.flower_url}   ({place})")
    say(f"broker     {stack.broker_banner}")
    for name, provider in stack.settings.providers.items():
        say(f"provider   {name}: {_realness(stack, name, provider.base_url)}")
    say(f"logs       {STATE / 'logs'}")
    say("try        llmgine submit summarize -i text=@README.md --watch")
    say(
        f"or         curl -s '{stack.url}/v1/jobs?wait=30' "
        f'-H "Authorization: Bearer $(cat {STATE / "key"})" '
        "-H 'Content-Type: application/json' "
        """-d '{"chain":"summarize","inputs":{"text":"..."}}'"""
    )
    say("Ctrl-C stops everything; the jobs stay (llmgine up --reset forgets them)")


def _realness(stack: Stack, name: str, base_url: str | None) -> str:
    if name in stack.simulated:
        variable = stack.given.providers[name].key_env
        return f"SIMULATED, free of charge (set {variable} for the real one)"
    return f"real ({base_url or 'its public address'}): calls cost money"
