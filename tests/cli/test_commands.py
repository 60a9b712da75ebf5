"""The command line itself: usage, statuses, nothing loaded that is not needed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmgine_workers.cli.app import main

CHAIN = """
name: mine
steps:
  - name: draft
    llm: {model: fast, prompt: Hello}
"""


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory, no gateway, no settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMGINE_URL", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["submit"],
        ["submit", "x", "--nonsense"],
        ["submit", "x", "-i", "novalue"],
        ["submit", "x", "--watch", "--wait"],
        ["submit", "x", "--max-cost", "much"],
        ["worker"],
        ["worker", "openai", "--pool", "fibers"],
        ["dlq", "show", "not-an-id"],
        ["dlq", "list", "--state", "shut"],
        ["dlq", "list", "--since", "later"],
        ["dlq", "replay", "--yes"],
        ["dlq", "replay", "not-an-id", "--yes"],
        ["dlq", "replay", "--all", "--code", "x", "--yes"],
        ["dlq", "replay", "--all", "--stop-if-fail", "most", "--yes"],
        ["dlq", "replay", "--code", "", "--yes"],
        ["dlq", "discard", "--yes"],
        ["simulate", "--fault", "nonsense"],
    ],
)
def test_what_makes_no_sense_is_status_2(
    argv: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("command", ["replay", "discard", "ignore"])
def test_without_a_terminal_letters_are_touched_only_with_yes(
    command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["dlq", command, "--all"]) == 2
    assert "needs --yes" in capfd.readouterr().err


def test_version_and_help_succeed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("0.")
    assert main(["--help"]) == 0
    assert main(["dlq", "replay", "--help"]) == 0


def test_no_gateway_is_status_69_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["jobs", "show", "0193"]) == 69
    told = capsys.readouterr()
    assert told.out == ""
    assert "http://127.0.0.1:9" in told.err
    assert "llmgine up" in told.err


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "http://[::"])
def test_a_wrong_address_is_status_78(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMGINE_URL", url)
    assert main(["watch", "0193"]) == 78
    assert "LLMGINE_URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[nonsense]\n", "nonsense"),
        ("broker = {prefix = 'UPPER'}\n", "broker.prefix"),
        ("broker = {", "llmgine.toml"),
    ],
)
def test_wrong_settings_are_status_78_and_name_the_key(
    text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("llmgine.toml").write_text(text)
    assert main(["status"]) == 78
    assert says in capsys.readouterr().err


def test_a_missing_settings_file_is_status_78(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "none.toml", "status"]) == 78
    assert "none.toml" in capsys.readouterr().err


def test_a_store_that_is_down_is_status_69_without_its_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("llmgine.toml").write_text(
        'ledger = {url = "postgresql://me:secret@127.0.0.1:9/x"}\n'
        'broker = {url = "amqp://me:secret@127.0.0.1:9"}\n'
        'redis = {url = "redis://:secret@127.0.0.1:9"}\n'
    )
    assert main(["status", "--json"]) == 69
    told = capsys.readouterr()
    assert set(json.loads(told.out)["down"]) == {"ledger", "broker", "redis"}
    assert "secret" not in told.out + told.err
    assert main(["keys", "list"]) == 69
    assert main(["doctor"]) in (69, 78)
    assert "secret" not in "".join(capsys.readouterr())


def test_an_unknown_pool_names_the_pools(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "opnai"]) == 2
    assert "tools" in capsys.readouterr().err


def test_lint_finds_everything_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path("good.yaml").write_text(CHAIN)
    Path("bad.yaml").write_text(CHAIN + "    wen: x\n  - name: draft\n    llm: {}\n")
    assert main(["chains", "lint", "good.yaml"]) == 0
    assert main(["chains", "lint", "good.yaml", "bad.yaml"]) == 65
    told = capsys.readouterr().err
    assert "bad.yaml:6:" in told
    assert "wen" in told
    assert main(["chains", "lint", "bad.yaml", "--json"]) == 65
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert len(errors) > 1
    assert all(error["file"] == "bad.yaml" for error in errors)


def test_a_chain_file_is_checked_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("bad.yaml").write_text("name: mine\nsteps: []\n")
    assert main(["submit", "bad.yaml"]) == 65
    assert "bad.yaml:2:" in capsys.readouterr().err
    assert main(["submit", "./none.yaml"]) == 65
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        ("--version", ["httpx2", "pydantic", "celery", "asyncpg", "openai", "rich"]),
        (
            "jobs show x",
            ["celery", "asyncpg", "openai", "anthropic", "kombu", "sqlalchemy"],
        ),
        ("chains lint x", ["httpx2", "celery", "asyncpg", "openai", "sqlalchemy"]),
    ],
)
def test_a_command_loads_only_what_it_needs(command: str, heavy: list[str]) -> None:
    program = (
        "import sys; from llmgine_workers.cli.app import main; main(sys.argv[1:]); "
        f"print('LOADED', sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(  # noqa: S602 - the pipe is what is tested
        f"{sys.executable} -m llmgine_workers.cli --help | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
