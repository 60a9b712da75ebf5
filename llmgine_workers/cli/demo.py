"""`llmgine demo`: everything in a folder of its own, a story, and everything stopped."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmgine_workers.broker import removal
from llmgine_workers.cli import local_broker, story, terminal
from llmgine_workers.cli.stack import PROGRAM, Stack
from llmgine_workers.local.server import LOOPBACK, free_port
from llmgine_workers.settings import (
    PROVIDER_ROWS,
    BrokerSettings,
    FlowerSettings,
    GatewaySettings,
    ProviderSettings,
    Settings,
)

_PACE = ("--latency", "0.8", "--first-token", "0.2", "--chunks", "24", "--seed", "7")
_PROVIDERS = ("openai", "anthropic")


async def run(
    given: Settings,
    environ: Mapping[str, str],
    keep: Path | None = None,
    program: Sequence[str] = PROGRAM,
) -> None:
    """Show the whole line; CheckFailed if anything that is shown is not so.

    Of the given settings only the broker's URL counts. Nothing is left behind but
    `keep`, if it is given; `program` starts the child processes.
    """
    begun = time.monotonic()
    _cancel_at_sigterm()
    with _folder(keep) as home:
        broker = await local_broker.choose(given.broker.url, home / "data" / "rabbitmq")
        stack = Stack(
            home=home,
            given=_settings(given, shared=broker.url is not None),
            environ=_without_keys(environ),
            broker=broker,
            say=terminal.note,
            pace=_PACE,
            program=program,
        )
        try:
            _announce(stack)
            await stack.start()
            terminal.say(f"everything answers after {time.monotonic() - begun:.1f} s")
            await story.tell(stack)
        finally:
            await stack.discard()
            await _leave_clean(stack)
    took = time.monotonic() - begun
    terminal.say(f"\nAll of it was checked, in {took:.0f} s. Next: llmgine up")


def _announce(stack: Stack) -> None:
    terminal.say("llmgine demo: no keys, no network, nothing is installed")
    terminal.say("stores     embedded PostgreSQL and Valkey")
    terminal.say(f"broker     {stack.broker.banner}")
    terminal.say("providers  openai and anthropic, both simulated")
    terminal.say(f"gateway    {stack.url}   Flower {stack.flower_url}")


def _settings(given: Settings, *, shared: bool) -> Settings:
    """Free ports; on somebody's broker also names of our own."""
    prefix = f"llmgine_demo_{secrets.token_hex(3)}" if shared else "llmgine"
    return Settings(
        broker=BrokerSettings(url=given.broker.url, prefix=prefix),
        gateway=GatewaySettings(listen=f"{LOOPBACK}:{free_port()}"),
        flower=FlowerSettings(listen=f"{LOOPBACK}:{free_port()}"),
        providers={
            name: ProviderSettings.model_validate(PROVIDER_ROWS[name])
            for name in _PROVIDERS
        },
    )


def _without_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """Nothing of a demo may reach a real provider, whatever keys are about."""
    keys = {PROVIDER_ROWS[name]["key_env"] for name in _PROVIDERS}
    return {name: value for name, value in environ.items() if name not in keys}


async def _leave_clean(stack: Stack) -> None:
    if stack.broker.url is not None:
        broker = stack.given.broker
        await removal.remove(broker.url, broker.prefix, [*_PROVIDERS, "tools"])


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """A folder that is removed, unless it was asked for or something went wrong."""
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    folder = Path(tempfile.mkdtemp(prefix="llmgine-demo-"))
    try:
        yield folder
    except Exception:
        terminal.note(f"logs and data are left in {folder}")
        raise
    except BaseException:  # interrupted: nothing to look into
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _cancel_at_sigterm() -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
