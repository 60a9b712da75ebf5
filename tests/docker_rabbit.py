"""RabbitMQ in a container, where a Docker daemon answers and nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

from llmgine_workers.errors import DependencyDown
from llmgine_workers.local import PrivateRabbit
from llmgine_workers.local.process import Command
from llmgine_workers.local.server import LOOPBACK

IMAGE = os.environ.get("LLMGINE_TEST_RABBIT_IMAGE", "rabbitmq:4-management")


def docker_answers() -> bool:
    """Whether there is a Docker client with a daemon behind it."""
    return shutil.which("docker") is not None and _docker("info", check=False) == 0


class DockerRabbit(PrivateRabbit):
    """The same control over `docker run` in the foreground."""

    start_timeout_s = 300.0  # the image may have to be fetched

    def __init__(
        self, data_dir: Path, port: int | None = None, *, management: bool = False
    ) -> None:
        super().__init__(data_dir, port, management=management)
        self._volume = f"llmgine-test-{uuid4().hex[:12]}"
        self._container = ""

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints inside the container."""
        done = subprocess.run(
            ["docker", "exec", self._container, "rabbitmqctl", "--quiet", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise DependencyDown(f"rabbitmqctl {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def empty(self) -> None:
        """Forget all data; only while it is stopped."""
        _docker("volume", "rm", "-f", self._volume, check=False)

    def kill(self) -> None:
        """SIGKILL it and wait until its port is free."""
        _docker("rm", "-f", self._container, check=False)
        super().kill()

    def freeze(self, *, frozen: bool) -> None:
        """Stop or continue every process of the container."""
        _docker("pause" if frozen else "unpause", self._container)

    def _prepare(self) -> Command:
        config = self.data_dir / "rabbitmq.conf"
        config.write_text(
            f"default_user = llmgine\ndefault_pass = {self._password}\n"
            "loopback_users = none\ncollect_statistics_interval = 1000\n",
            "ascii",
        )
        config.chmod(0o644)  # the container's user reads it
        self._container = f"llmgine-test-{uuid4().hex[:12]}"
        run = ["docker", "run", "--rm", "--name", self._container]
        run += ["--hostname", "llmgine", "-p", f"{LOOPBACK}:{self.port}:5672"]
        if self._http_port is not None:
            run += ["-p", f"{LOOPBACK}:{self._http_port}:15672"]
        run += ["-v", f"{self._volume}:/var/lib/rabbitmq"]
        run += ["-v", f"{config}:/etc/rabbitmq/rabbitmq.conf:ro", IMAGE]
        log = self.data_dir / "docker.log"
        return Command(run, dict(os.environ), self.data_dir, log)


def _docker(*arguments: str, check: bool = True) -> int:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if check and done.returncode:
        raise DependencyDown(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.returncode
