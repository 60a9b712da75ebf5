"""Docker Compose where it can be had; where not, its tests skip and say so."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import NoReturn

import pytest


class Compose(list[str]):
    """The words that start it, and the environment of a user without keys."""

    environ: dict[str, str]


def compose_or_skip() -> Compose:
    """`docker compose`, or the test is skipped."""
    compose = Compose(["docker", "compose"])
    ours = ("OPENAI_", "ANTHROPIC_", "COMPOSE_", "LLMGINE_")
    compose.environ = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    if shutil.which("docker") is None:
        _skip("there is no docker command")
    version = [*compose, "version"]
    if subprocess.run(version, capture_output=True, check=False).returncode:
        _skip("docker has no compose")
    return compose


def _skip(why: str) -> NoReturn:
    pytest.skip(f"Docker Compose is not asked: {why}")
