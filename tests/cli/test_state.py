"""`.llmgine/`: one `up` to a directory, found by whoever works beside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmgine_workers.cli import state
from llmgine_workers.cli.api import Access
from llmgine_workers.cli.invocation import Invocation
from llmgine_workers.cli.state import AlreadyRunning

KEY = "llmg_0123456789ab_" + "0" * 64
_HOLD = """
from llmgine_workers.cli import state
with state.held():
    print("held", flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def another_up() -> Iterator[None]:
    """Another process that holds this directory."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.communicate(b"\n")


@pytest.mark.usefixtures("another_up")
def test_a_second_up_in_a_directory_is_refused() -> None:
    with pytest.raises(AlreadyRunning), state.held():
        pass


@pytest.mark.usefixtures("another_up")
def test_beside_a_running_up_its_settings_are_found() -> None:
    state.CONFIG.write_text('broker = {prefix = "found"}\n')
    assert state.up_runs_here()
    assert Invocation(None, {}).settings().broker.prefix == "found"
    assert Invocation(None, {}).written_settings().broker.prefix == "llmgine"


def test_after_it_the_operator_s_own_settings_count_again() -> None:
    with state.held():
        pass
    state.CONFIG.write_text('broker = {prefix = "found"}\n')
    Path("llmgine.toml").write_text('broker = {prefix = "mine"}\n')
    assert not state.up_runs_here()
    assert Invocation(None, {}).settings().broker.prefix == "mine"


def test_an_empty_directory_has_no_up() -> None:
    assert not state.up_runs_here()
    assert not state.HOME.exists()


def test_reset_forgets_everything_but_the_lock() -> None:
    with state.held():
        (state.HOME / "data").mkdir()
        (state.HOME / "data" / "x").touch()
        state.KEY.write_text(KEY)
        state.forget()
        assert [path.name for path in state.HOME.iterdir()] == ["lock"]


def test_the_key_and_address_of_up_are_found() -> None:
    state.HOME.mkdir()
    state.KEY.write_text(KEY + "\n")
    state.URL.write_text("http://127.0.0.1:1234")
    assert Access.found({}) == Access("http://127.0.0.1:1234", KEY)


def test_the_environment_wins() -> None:
    state.HOME.mkdir()
    state.KEY.write_text(KEY)
    environ = {"LLMGINE_URL": "http://localhost:1/", "LLMGINE_API_KEY": "mine"}
    assert Access.found(environ) == Access("http://localhost:1", "mine")


def test_the_key_of_this_machine_is_never_sent_to_another() -> None:
    state.HOME.mkdir()
    state.KEY.write_text(KEY)
    assert Access.found({"LLMGINE_URL": "https://example.com"}).key is None
