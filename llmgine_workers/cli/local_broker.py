"""Which broker this machine offers: a running one, a private one, or Valkey's lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmgine_workers.broker import declare
from llmgine_workers.cli.terminal import masked
from llmgine_workers.errors import LlmgineError
from llmgine_workers.local import PrivateRabbit, rabbit_available


@dataclass(frozen=True)
class Choice:
    """`server` is to be started; `url` is known already if there is none to start."""

    banner: str
    url: str | None = None
    server: PrivateRabbit | None = None


async def choose(configured: str, data_dir: Path) -> Choice:
    """The RabbitMQ at the configured URL, else an installed one, else Valkey.

    A Choice with neither URL nor server means Valkey.
    """
    why = await _why_not(configured)
    if why is None:
        return Choice(f"RabbitMQ at {masked(configured)}", url=configured)
    if rabbit_available():
        server = PrivateRabbit(data_dir)
        server.empty()  # hints of the last time; the ledger publishes them again
        banner = f"a private RabbitMQ, as none runs at {masked(configured)}"
        return Choice(banner, server=server)
    return Choice(
        "none: hints go over the embedded Valkey, as no RabbitMQ runs at "
        f"{masked(configured)} and rabbitmq-server is not installed"
    )


async def _why_not(url: str) -> str | None:
    try:
        await declare.server_version(url)
    except LlmgineError as error:
        return str(error)
    return None
