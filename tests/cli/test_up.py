"""`llmgine up`: everything on one machine, used and operated beside it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from llmgine_workers.local.server import free_port

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]

CLI = (sys.executable, "-P", "-m", "llmgine_workers.cli")
_WAIT_S = 90.0
_MINE = """
name: mine
inputs: {topic: {type: string}}
steps:
  - name: draft
    llm: {model: smart, prompt: "Write about {{ inputs.topic }}"}
  - name: words
    tool: {use: word_count, arguments: {text: "{{ steps.draft.text }}"}}
"""


@dataclass
class Up:
    """A running `llmgine up` and its directory."""

    folder: Path
    process: subprocess.Popen[str]

    def llmgine(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Another command in the same directory."""
        return subprocess.run(
            [*CLI, *argv],
            cwd=self.folder,
            env=environ(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def ok(self, *argv: str) -> str:
        """What a command that must succeed prints."""
        done = self.llmgine(*argv)
        assert done.returncode == 0, done.stderr
        return done.stdout


def environ() -> dict[str, str]:
    mine = ("LLMGINE_", "OPENAI_", "ANTHROPIC_")
    return {
        name: value for name, value in os.environ.items() if not name.startswith(mine)
    }


def wait_until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + _WAIT_S
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def running(words: Sequence[str]) -> list[psutil.Process]:
    """The processes that have all these words in their command lines."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or ()
        if process.info["status"] != psutil.STATUS_ZOMBIE and all(
            any(word in part for part in line) for word in words
        ):
            found.append(process)
    return found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    (folder / "llmgine.toml").write_text(
        f'gateway = {{listen = "127.0.0.1:{free_port()}"}}\n'
        f'flower = {{listen = "127.0.0.1:{free_port()}"}}\n'
        "worker = {slots = 20}\n"
    )
    (folder / "chains").mkdir()
    (folder / "chains" / "mine.yaml").write_text(_MINE)
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [*CLI, "up"], cwd=folder, env=environ(), stdout=out, stderr=err, text=True
        )
    try:
        wait_until(
            lambda: "Ctrl-C" in (folder / "out").read_text() or process.poll() is not None
        )
        assert process.poll() is None, (folder / "err").read_text()
        yield Up(folder, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (folder / "err").read_text()
        assert running([str(folder)]) == []
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def test_the_banner_says_what_is_real_and_where_everything_is(up: Up) -> None:
    said = (up.folder / "out").read_text()
    assert "openai: SIMULATED" in said
    assert "anthropic: SIMULATED" in said
    assert ".llmgine/key" in said
    assert "curl -s" in said
    assert "OPENAI_API_KEY" in said


def test_secrets_are_readable_by_their_owner_only(up: Up) -> None:
    for name in ("key", "flower", "llmgine.toml"):
        mode = (up.folder / ".llmgine" / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600


def test_a_chain_of_the_folder_runs_and_prints_its_output(up: Up) -> None:
    done = up.llmgine("submit", "mine", "-i", "topic=queues", "--wait")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["words"] > 10
    assert "succeeded · $0.00" in done.stderr


def test_a_tool_and_a_chain_file_run_by_themselves(up: Up) -> None:
    output = up.ok("submit", "tool:word_count", "-i", "text=a b c", "--wait")
    assert json.loads(output)["words"] == 3
    (up.folder / "other.yaml").write_text(_MINE.replace("mine", "other"))
    job = up.ok("submit", "./other.yaml", "-i", "topic=queues").strip()
    assert up.llmgine("watch", job).returncode == 0
    shown = json.loads(up.ok("jobs", "show", job, "--json"))
    assert (shown["chain"]["name"], shown["state"]) == ("other", "succeeded")
    steps = json.loads(up.ok("jobs", "steps", job, "--json"))["data"]
    assert [step["path"] for step in steps] == ["draft", "words"]


def test_a_watcher_outlives_the_gateway(up: Up) -> None:
    watcher = subprocess.Popen(
        [*CLI, "submit", "mine", "-i", "topic=[[sim:latency=6s]]", "--watch", "--json"],
        cwd=up.folder,
        env=environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watcher.stdout is not None
    lines = [watcher.stdout.readline()]
    while '"step.delta"' not in lines[-1]:
        lines.append(watcher.stdout.readline())
    (gateway,) = running([str(up.folder), "gateway"])
    gateway.kill()
    lines += watcher.stdout.read().splitlines()
    assert watcher.wait(60) == 0
    numbers = [json.loads(line)["seq"] for line in lines]
    assert numbers == list(range(1, len(numbers) + 1))
    assert json.loads(lines[-1])["type"] == "job.finished"
    wait_until(lambda: running([str(up.folder), "gateway"]))


def test_a_failed_job_is_listed_replayed_and_gone(up: Up) -> None:
    (up.folder / "bad.yaml").write_text(
        _MINE.replace("mine", "bad").replace(
            'prompt: "', 'prompt: "[[sim:fault=400 times=1]] '
        )
    )
    failed = up.llmgine("submit", "bad.yaml", "-i", "topic=x", "--wait")
    assert failed.returncode == 1
    assert "provider_rejected" in failed.stderr
    (letter,) = json.loads(up.ok("dlq", "list", "--json"))["data"]
    assert letter["id"] in failed.stderr
    assert letter["id"] in up.ok("dlq", "list")
    assert "provider_rejected" in up.ok("dlq", "show", letter["id"])
    replayed = up.ok("dlq", "replay", letter["id"], "--yes")
    assert "1 succeeded of 1" in replayed
    assert f"llmgine watch {letter['job']}" in replayed
    assert up.llmgine("watch", letter["job"]).returncode == 0
    assert up.llmgine("dlq", "replay", letter["id"], "--yes").returncode == 65
    assert json.loads(up.ok("dlq", "reconcile", "--json"))["kept"] == 0
    assert json.loads(up.ok("status", "--json"))["dead_queue"] == 0


def test_status_and_doctor_find_everything_well(up: Up) -> None:
    found = json.loads(up.ok("status", "--json"))
    assert found["down"] == {}
    workers = {pool["pool"]: pool["workers"] for pool in found["pools"]}
    assert workers == {"anthropic": 1, "openai": 1, "tools": 1}
    checks = json.loads(up.ok("doctor", "--json"))["data"]
    assert all(check["problem"] is None for check in checks)


def test_a_key_is_made_used_and_revoked(up: Up) -> None:
    key = up.ok("keys", "create", "--tenant", "acme", "--scope", "read").strip()
    listed = up.ok("keys", "list", "--tenant", "acme")
    assert key not in listed
    assert key.split("_")[1] in listed

    def refused() -> str:
        done = subprocess.run(
            [*CLI, "submit", "mine", "-i", "topic=x"],
            cwd=up.folder,
            env={**environ(), "LLMGINE_API_KEY": key},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 77
        return done.stderr

    assert "submit" in refused()
    up.ok("keys", "revoke", key)
    wait_until(lambda: "LLMGINE_API_KEY" in refused())


def test_refusals_have_their_statuses(up: Up) -> None:
    assert up.llmgine("submit", "nonsense").returncode == 65
    wrong = up.llmgine("submit", "summarize", "-i", "text=x", "-i", "sentences=5")
    assert wrong.returncode == 65
    assert "name:=JSON" in wrong.stderr
    assert up.llmgine("jobs", "show", "nonsense").returncode == 65
    assert up.llmgine("keys", "create", "--tenant", "a b", "--scope", "x").returncode == 2


def test_a_second_up_here_or_on_its_ports_is_told_to_try_later(
    up: Up, tmp_path: Path
) -> None:
    again = up.llmgine("up")
    assert again.returncode == 75
    assert "another llmgine up" in again.stderr
    (tmp_path / "llmgine.toml").write_text((up.folder / "llmgine.toml").read_text())
    elsewhere = Up(tmp_path, up.process).llmgine("up")
    assert elsewhere.returncode == 75
    assert "cannot listen" in elsewhere.stderr
