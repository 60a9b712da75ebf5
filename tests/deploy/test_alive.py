"""The image's health check: a file that was touched a moment ago."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from llmgine_workers.alive import toucher
from tests.deploy.compose_file import ROOT


def status(file: Path) -> int:
    environ = {**os.environ, "LLMGINE_HEALTH__FILE": str(file)}
    return subprocess.run([ROOT / "deploy" / "alive"], env=environ).returncode


def test_it_is_alive_for_a_while_after_a_touch(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    assert status(file) == 1
    touch = toucher(str(file))
    touch()
    assert status(file) == 0
    os.utime(file, (0, file.stat().st_mtime - 31))
    assert status(file) == 1
    touch()
    assert status(file) == 0


def test_a_place_that_cannot_be_written_stops_no_work(tmp_path: Path) -> None:
    toucher(str(tmp_path / "missing" / "alive"))()
    toucher("")()
