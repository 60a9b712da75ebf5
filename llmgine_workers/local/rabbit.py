"""A private RabbitMQ node (3.10 or later) of an installed `rabbitmq-server`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from llmgine_workers.errors import DependencyDown
from llmgine_workers.local.process import Command, GuardedProcess
from llmgine_workers.local.server import (
    LOOPBACK,
    LocalServer,
    exchange,
    free_port,
    kept_secret,
)

_DEBIAN = Path("/usr/lib/rabbitmq/bin")
"""The scripts themselves: those on Debian's PATH change to the system's user."""
_AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
_LOOPBACK_ERL = "-kernel inet_dist_use_interface {127,0,0,1}"


def rabbit_available() -> bool:
    """Whether RabbitMQ is installed here."""
    return _scripts() is not None and _epmd() is not None


class PrivateRabbit(LocalServer):
    """Its own node name, ports, port mapper and files; loopback only.

    `management` also starts the HTTP API, at `management_url`.
    """

    name = "RabbitMQ"

    def __init__(
        self, data_dir: Path, port: int | None = None, *, management: bool = False
    ) -> None:
        super().__init__(data_dir, port)
        self._management = management
        self._http_port = free_port() if management else None
        self._distribution_port = free_port()
        self._mapper_port = free_port()
        self._mapper: GuardedProcess | None = None

    @property
    def url(self) -> str:
        """`amqp://` with its password and the virtual host `/`."""
        return f"amqp://llmgine:{self._password}@{LOOPBACK}:{self.port}/%2F"

    @property
    def management_url(self) -> str:
        """The HTTP API with its password; DependencyDown without `management`."""
        if self._http_port is None:
            raise DependencyDown("this RabbitMQ was started without management")
        return f"http://llmgine:{self._password}@{LOOPBACK}:{self._http_port}/api/"

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints; DependencyDown with its words if it fails."""
        script = _installed_scripts() / "rabbitmqctl"
        done = subprocess.run(  # noqa: S603 - of the installed RabbitMQ
            [str(script), "--quiet", "-n", self._node, *arguments],
            env=self._environment(),
            cwd=self.data_dir,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise DependencyDown(f"rabbitmqctl {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def empty(self) -> None:
        """Forget all data; only while it is stopped."""
        shutil.rmtree(self.data_dir / "mnesia", ignore_errors=True)

    def stop(self) -> None:
        """Stop the node, then its port mapper."""
        super().stop()
        mapper, self._mapper = self._mapper, None
        if mapper is not None:
            mapper.stop()

    def kill(self) -> None:
        """SIGKILL the node and its port mapper."""
        super().kill()
        mapper, self._mapper = self._mapper, None
        if mapper is not None:
            mapper.kill()

    @property
    def _password(self) -> str:
        return kept_secret(self.data_dir / "password")

    @property
    def _node(self) -> str:
        return f"llmgine{self.port}@localhost"

    def _prepare(self) -> Command:
        self._write_files()
        if self._mapper is None:
            self._mapper = GuardedProcess(self._mapper_command())
        log = self.data_dir / "rabbit.log"
        argv = [str(_installed_scripts() / "rabbitmq-server")]
        return Command(argv, self._environment(), self.data_dir, log)

    def _mapper_command(self) -> Command:
        """Own epmd in the foreground: one started by the node would outlive it."""
        argv = [_epmd() or "epmd", "-address", LOOPBACK, "-port", str(self._mapper_port)]
        return Command(argv, {}, self.data_dir, self.data_dir / "epmd.log")

    def _write_files(self) -> None:
        cookie = self.data_dir / ".erlang.cookie"
        kept_secret(cookie)
        cookie.chmod(0o400)  # Erlang insists
        plugins = "rabbitmq_management" if self._management else ""
        (self.data_dir / "enabled_plugins").write_text(f"[{plugins}].\n", "ascii")
        (self.data_dir / "advanced.config").write_text("[].\n", "ascii")
        config = self.data_dir / "rabbitmq.conf"
        config.touch(mode=0o600)
        config.write_text("\n".join(self._configuration()) + "\n", "ascii")

    def _configuration(self) -> list[str]:
        lines = [
            f"listeners.tcp.1 = {LOOPBACK}:{self.port}",
            "default_user = llmgine",
            f"default_pass = {self._password}",
            "log.console = false",
            "log.file.level = warning",
            "raft.wal_max_size_bytes = 64000000",  # held in memory; 512 MB by default
        ]
        if self._management:
            lines += [
                f"management.tcp.ip = {LOOPBACK}",
                f"management.tcp.port = {self._http_port}",
                "collect_statistics_interval = 1000",  # ms, so that a page is current
            ]
        return lines

    def _environment(self) -> dict[str, str]:
        """Nothing of the installed node's configuration may leak in."""
        here = str(self.data_dir)
        return {
            "PATH": os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin",
            "HOME": here,  # Erlang looks for its cookie there
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(self._mapper_port),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq.conf",
            "RABBITMQ_CONFIG_FILES": f"{here}/conf.d",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{here}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{here}/mnesia",
            "RABBITMQ_LOG_BASE": f"{here}/log",
            "RABBITMQ_PID_FILE": f"{here}/rabbit.pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 2:2 {_LOOPBACK_ERL}",
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK_ERL,
        }

    def _answers(self) -> bool:
        assert self.port is not None  # noqa: S101 - chosen by start()
        # A method frame on channel 0: Connection.Start.
        return exchange(self.port, _AMQP_HEADER).startswith(b"\x01\x00\x00")


def _scripts() -> Path | None:
    if (_DEBIAN / "rabbitmq-server").exists():
        return _DEBIAN
    found = shutil.which("rabbitmq-server")
    return Path(found).resolve().parent if found else None


def _installed_scripts() -> Path:
    scripts = _scripts()
    if scripts is None:
        raise DependencyDown("rabbitmq-server is not installed")
    return scripts


def _epmd() -> str | None:
    """Beside `erl`, or inside the Erlang installation that `erl` belongs to."""
    erl = shutil.which("erl")
    inside = sorted(Path(erl).resolve().parents[1].glob("erts-*/bin/epmd")) if erl else []
    return shutil.which("epmd") or (str(inside[-1]) if inside else None)
