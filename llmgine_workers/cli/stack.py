"""Everything of one installation on one machine, under one directory."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmgine_workers import settings as settings_room
from llmgine_workers.cli import (
    installation,
    local_broker,
    local_settings,
    readiness,
    toml,
)
from llmgine_workers.cli.children import Children, Role, Say
from llmgine_workers.cli.local_settings import Addresses
from llmgine_workers.cli.servers import Servers
from llmgine_workers.errors import LlmgineError
from llmgine_workers.keys import SCOPES, parse
from llmgine_workers.ledger import api_keys
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.local.server import LOOPBACK, free_port
from llmgine_workers.settings import Settings

PROGRAM = (sys.executable, "-P", "-m", "llmgine_workers.cli")
"""How children are started. -P: no module in the working directory hides ours."""

TENANT = "default"


class AddressInUse(LlmgineError):
    """Somebody else listens where we should."""

    code = "address_in_use"


@dataclass(kw_only=True)
class Stack:
    """Embedded servers, then our own processes, each with a log in `home/logs`.

    `pace` are arguments of the simulator; `program` starts a child.
    """

    home: Path
    given: Settings
    environ: Mapping[str, str]
    broker: local_broker.Choice
    say: Say
    pace: Sequence[str] = ()
    program: Sequence[str] = PROGRAM
    settings: Settings = field(init=False)
    flower_user: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.home = self.home.absolute()
        self._servers = Servers(self.home / "data", self.broker)
        self._children: Children | None = None
        self._simulator = f"http://{LOOPBACK}:{free_port()}"
        self.flower_user = self._flower_user()

    @property
    def simulator_url(self) -> str:
        """Where the simulated provider listens."""
        return self._simulator

    @property
    def simulated(self) -> tuple[str, ...]:
        """The providers it plays."""
        return local_settings.simulated(self.given, self.environ)

    @property
    def key_file(self) -> Path:
        """Holds an API key of tenant `default` with all scopes."""
        return self.home / "key"

    @property
    def url(self) -> str:
        """The gateway's."""
        return f"http://{self.given.gateway.listen}"

    @property
    def flower_url(self) -> str:
        """Flower's."""
        return f"http://{self.given.flower.listen}"

    @property
    def child_environ(self) -> dict[str, str]:
        """What children, and whoever acts beside them, take from the environment."""
        user, password = self.flower_user
        flower = self.given.flower
        return local_settings.of_children(self.environ) | {
            flower.user_env: user,
            flower.password_env: password,
        }

    async def start(self) -> None:
        """Start everything; returns when all of it answers. What failed is raised."""
        for listen in (self.given.gateway.listen, self.given.flower.listen):
            _refuse_taken(listen)
        await self._servers.start(self._prepare_ledger)
        self.settings = self._derived()
        await installation.migrate_broker(self.settings, self.child_environ)
        (self.home / "url").write_text(self.url, "ascii")
        self._children = Children(self._tiers(), self.say)
        self._children.start()
        await readiness.wait(self, self._children)

    async def keep(self) -> None:
        """Start again whatever ends by itself, until cancelled."""
        assert self._children is not None  # noqa: S101 - after start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._children.keep())
            group.create_task(self._servers.keep(self.say))

    async def stop(self) -> None:
        """Stop all in order: front, workers, simulator, then the servers."""
        await self._stop_children()
        await self._servers.stop()

    async def discard(self) -> None:
        """Stop all; the stores will not be needed again."""
        await self._stop_children()
        await self._servers.discard()

    def kill(self) -> None:
        """End all at once."""
        if self._children is not None:
            self._children.kill()
        self._servers.kill()

    async def _stop_children(self) -> None:
        if self._children is not None:
            await self._children.stop()

    async def _prepare_ledger(self, url: str) -> None:
        await installation.migrate_ledger(url, self.given)
        await self._ensure_key(url)

    def _derived(self) -> Settings:
        at = Addresses(
            ledger=self._servers.postgres.url,
            redis=self._servers.valkey.url,
            broker=self._servers.broker_url,
            gateway=self.given.gateway.listen,
            flower=self.given.flower.listen,
            simulator=self._simulator,
        )
        tree = local_settings.derive(self.given, self.environ, at)
        write_private(self.config, toml.dumps(tree))
        return settings_room.load(self.config, self.child_environ)

    @property
    def config(self) -> Path:
        """The derived settings: `llmgine --config` with it reaches this stack."""
        return self.home / "llmgine.toml"

    async def _ensure_key(self, url: str) -> None:
        """Keep the key of the last time if this ledger knows it."""
        ledger = Ledger(url, self.given.broker.prefix, connections=2)
        try:
            known = self.key_file.exists() and parse(self.key_file.read_text().strip())
            stored = await api_keys.found(ledger, known.id) if known else None
            if stored is None or stored.revoked_at:
                key = await installation.create_key(ledger, TENANT, SCOPES)
                write_private(self.key_file, key.text + "\n")
        finally:
            await ledger.close()

    def _flower_user(self) -> tuple[str, str]:
        flower = self.given.flower
        user = self.environ.get(flower.user_env)
        password = self.environ.get(flower.password_env)
        if user and password:
            return user, password
        kept = self.home / "flower"
        if not kept.exists():
            write_private(kept, f"llmgine:{secrets.token_urlsafe(18)}\n")
        user, _, password = kept.read_text("ascii").strip().partition(":")
        return user, password

    def _tiers(self) -> list[list[Role]]:
        pools = self.settings.pools(self.child_environ)
        workers = [self._role(f"worker-{pool}", "worker", pool) for pool in pools]
        front = [self._role("gateway", "gateway"), self._role("flower", "flower")]
        tiers = [front, [*workers, self._role("scheduler", "scheduler")]]
        if self.simulated:
            tiers.append([self._simulator_role()])
        return tiers

    def _simulator_role(self) -> Role:
        port = self._simulator.rpartition(":")[2]
        log = str(self.home / "simulator-calls.jsonl")
        return self._role(
            "simulate", "simulate", "--port", port, "--log", log, *self.pace
        )

    def _role(self, name: str, *arguments: str) -> Role:
        argv = [*self.program, "--config", str(self.config), *arguments]
        log = self.home / "logs" / f"{name}.log"
        return Role(name, argv, self.child_environ, Path.cwd(), log)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, also while it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text, "utf-8")


def _refuse_taken(listen: str) -> None:
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do it: an address in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise AddressInUse(
                f"cannot listen at {listen}: {error.strerror}; stop what is there, or "
                "set gateway.listen and flower.listen in llmgine.toml"
            ) from None
