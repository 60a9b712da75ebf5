"""Children that are kept running, and never outlive who started them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from llmgine_workers.cli import children as room
from llmgine_workers.cli.children import Child, Children, Role
from llmgine_workers.errors import ConfigurationError

SLEEPER = "import time; print('here', flush=True); time.sleep(600)"
_WAIT_S = 20.0


def role(tmp_path: Path, program: str, name: str = "sleeper") -> Role:
    argv = [sys.executable, "-c", program]
    return Role(name, argv, dict(os.environ), tmp_path, tmp_path / "logs" / f"{name}.log")


def wait_until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + _WAIT_S
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def only(children: Children) -> Child:
    (child,) = children
    return child


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def keep(tmp_path: Path, said: list[str]) -> Iterator[Callable[[str], Children]]:
    """Starts one child; all are killed at the end."""
    started: list[Children] = []

    def start(program: str) -> Children:
        children = Children([[role(tmp_path, program)]], said.append)
        started.append(children)
        children.start()
        return children

    yield start
    for children in started:
        children.kill()


def test_a_child_that_is_killed_comes_back(
    keep: Callable[[str], Children], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BACK_OFF_S", (0.0,))
    children = keep(SLEEPER)
    first = only(children).pid
    assert first is not None
    os.kill(first, signal.SIGKILL)

    def another_lives() -> bool:
        children.look()
        return only(children).pid not in (None, first)

    wait_until(another_lives)
    assert "sleeper ended with -9" in said[0]


def test_one_that_ends_at_once_is_tried_ever_more_rarely(
    keep: Callable[[str], Children], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BACK_OFF_S", (0.0, 0.01, 0.02, 600.0))
    children = keep("import sys; sys.exit('no licence')")

    def ended(times: int) -> bool:
        children.look()
        return len(said) >= times

    wait_until(lambda: ended(4))
    assert "again in 600 s" in said[3]
    assert "no licence" in said[0]
    assert only(children).pid is None
    with pytest.raises(ConfigurationError, match="no licence"):
        children.refuse_hopeless()


async def test_tiers_stop_one_after_the_other(tmp_path: Path) -> None:
    farewell = (
        "import signal, sys, time\n"
        "def bye(*_):\n"
        "    time.sleep(0.2)\n"
        "    open('order', 'a').write({name!r})\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\n"
        "print('here', flush=True)\n"
        "time.sleep(600)\n"
    )
    roles = [role(tmp_path, farewell.format(name=name), name) for name in "abc"]
    children = Children([roles[:1], roles[1:]], lambda text: None)
    children.start()
    try:
        await asyncio.to_thread(
            wait_until,
            lambda: (
                all("here" in r.log.read_text() for r in roles if r.log.exists())
                and all(r.log.exists() for r in roles)
            ),
        )
        await children.stop()
    finally:
        children.kill()
    order = (tmp_path / "order").read_text()
    assert order[0] == "a"
    assert sorted(order) == ["a", "b", "c"]


DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEPER}"


@pytest.mark.parametrize("program", [SLEEPER, DEAF], ids=["polite", "deaf"])
def test_no_child_outlives_an_owner_that_is_killed(tmp_path: Path, program: str) -> None:
    owner_program = f"""
import os, sys, time
from pathlib import Path
from llmgine_workers.local import process
from llmgine_workers.cli.children import Children, Role
process.GRACE_S = 1
log = Path({str(tmp_path)!r}) / "child.log"
argv = [sys.executable, "-c", {program!r}]
children = Children([[Role("child", argv, dict(os.environ), log.parent, log)]], print)
children.start()
while not log.exists() or "here" not in log.read_text():
    time.sleep(0.02)
print([child.pid for child in children][0], flush=True)
time.sleep(600)
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", owner_program], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    try:
        assert lives(child)
        owner.kill()
        owner.wait()
        wait_until(lambda: not lives(child))
    finally:
        owner.stdout.close()
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
