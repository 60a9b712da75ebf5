"""`make demo`: it runs, and it fails when what it shows is not so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

SABOTAGED = Path(__file__).with_name("sabotaged.py")


def run(tmp_path: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """From an empty directory, with keys about that must not be used."""
    keys = {"OPENAI_API_KEY": "sk-real", "ANTHROPIC_API_KEY": "sk-ant-real"}
    return subprocess.run(
        [sys.executable, "-P", *argv],
        cwd=tmp_path,
        env={**os.environ, **keys, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


def processes_of(folder: Path) -> list[str]:
    """What still runs with this folder in its command line."""
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in word for word in process.info["cmdline"] or ())
    ]


def test_the_demo_shows_the_whole_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "llmgine_workers.cli", "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in (
        "= job succeeded",
        "x price book = $",
        "= job failed",
        "llmgine.dead holds 1",
        "Flower shows the task as FAILURE",
        "the replay called summary",
        "llmgine.dead holds 0",
        "All of it was checked",
    ):
        assert shown in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    ("sabotage", "says"),
    [
        ("charge_more", "not so: cost"),
        ("hide_letters", "not so: llmgine.dead holds 1"),
        ("replay_everything", "not so: the replay called outline, summary"),
    ],
)
def test_the_demo_fails_when_something_is_broken(
    tmp_path: Path, sabotage: str, says: str
) -> None:
    done = run(tmp_path, str(SABOTAGED), sabotage)
    assert done.returncode == 1, done.stdout + done.stderr
    assert says in done.stderr
    assert "logs and data are left in" in done.stderr
    assert "hints go over the embedded Valkey" in done.stdout
    assert processes_of(tmp_path) == []
