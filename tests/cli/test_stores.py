"""Commands against stores that are there, and not yet, or no longer, as they must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llmgine_workers.cli.app import main

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(
    tmp_path: Path, new_database: Callable[[], str], redis_url: str
) -> Callable[..., list[str]]:
    """Command-line words for an installation of its own; hints go over Valkey."""
    file = tmp_path / "llmgine.toml"
    file.write_text(
        f'ledger = {{url = "{new_database()}"}}\n'
        f'redis = {{url = "{redis_url}"}}\n'
        f'broker = {{url = "{redis_url}", prefix = "cli_{tmp_path.name[-8:].lower()}"}}\n'
        "[providers.ollama]\n"
    )
    return lambda *words: ["--config", str(file), *words]


@pytest.mark.parametrize(
    "command",
    ["status", "dlq list", "dlq reconcile", "keys list", "prune", "scheduler", "doctor"],
)
def test_before_migrate_every_command_says_so(
    command: str,
    settings: Callable[..., list[str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(settings(*command.split())) == 78
    told = capfd.readouterr()
    assert "llmgine migrate" in told.out + told.err


def test_migrate_twice_then_all_is_there_but_the_workers(
    settings: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(settings("migrate")) == 0
    assert main(settings("migrate", "--json")) == 0
    assert "summarize" in capsys.readouterr().out
    assert main(settings("status", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["dead_letters"] == 0
    assert main(settings("prune", "--json")) == 0
    assert json.loads(capsys.readouterr().out) == {"dropped": []}
    assert main(settings("dlq", "list")) == 0
    assert main(settings("doctor")) == 69
    assert "llmgine worker ollama" in capsys.readouterr().out


def test_a_letter_that_is_not_there_cannot_be_shown_or_replayed(
    settings: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = "0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11"
    assert main(settings("migrate")) == 0
    assert main(settings("dlq", "show", nowhere)) == 65
    assert main(settings("dlq", "replay", nowhere, "--yes")) == 65
    assert "no such dead letter" in capsys.readouterr().err


def test_a_key_is_told_once_and_never_again(
    settings: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(settings("migrate")) == 0
    capsys.readouterr()
    make = ("keys", "create", "--tenant", "acme", "--scope", "submit", "--json")
    assert main(settings(*make)) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(settings("keys", "list", "--json")) == 0
    listed = capsys.readouterr().out
    assert made["id"] in listed
    assert made["key"] not in listed
    assert main(settings("keys", "revoke", made["key"])) == 0
    assert main(settings("keys", "revoke", "000000000000")) == 65
    assert main(settings("keys", "create", "--tenant", "a", "--scope", "all")) == 2


def test_a_folder_with_a_broken_chain_stops_migrate(
    settings: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chains").mkdir()
    (tmp_path / "chains" / "bad.yaml").write_text("name: bad\nsteps: []\n")
    assert main(settings("migrate")) == 65
    assert "bad.yaml:2:" in capsys.readouterr().err


def test_a_pool_is_paused_and_goes_on_by_a_word_to_the_ledger(
    settings: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(settings("migrate")) == 0
    assert main(settings("pools", "pause", "ollama", "--reason", "the bill")) == 0
    capsys.readouterr()
    assert main(settings("pools", "list", "--json")) == 0
    shown = {one["pool"]: one for one in json.loads(capsys.readouterr().out)["data"]}
    assert shown["ollama"]["paused"]["reason"] == "the bill"
    assert shown["tools"]["paused"] is None
    assert main(settings("pools", "resume", "ollama", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["was_paused"]
    assert main(settings("pools", "resume", "ollama")) == 0
    assert "was not paused" in capsys.readouterr().out


def test_a_pool_that_is_not_there_cannot_be_paused(
    settings: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(settings("pools", "pause", "olama")) == 65
    assert "there are: ollama, tools" in capsys.readouterr().err
