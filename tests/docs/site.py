"""A running `make up` in a folder of its own, and the commands of a page in it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmgine_workers.local.server import LOOPBACK, free_port
from tests.docs.pages import NAMES, ROOT, Block, blocks

START_S = 90
STOP_S = 60
COMMAND_S = 60

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TOLD = {
    "JOB": re.compile(rf"(?:^job |^|llmgine watch )({_UUID})(?: |$)", re.M),
    "LETTER": re.compile(rf"llmgine dlq show ({_UUID})"),
}
"""Where the command line names the job and the letter to go on with."""
_EXIT = re.compile(r"\bexit (\d+)\b")
_COMMENT = re.compile(r"(^|\s{2,})#.*$")
_READERS = ("LLMGINE_", "OPENAI_", "ANTHROPIC_", "FLOWER_", "CI")
"""A reader's environment has none of these; with a key in it a test would cost money."""


@dataclass(frozen=True)
class Command:
    """One line of a block, and the exit status that its comment announces."""

    line: str
    status: int = 0


def commands(block: Block) -> Iterator[Command]:
    """The commands of a shell block; `# ... exit 1` beside one says how it ends."""
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        written = _COMMENT.sub("", line).strip()
        if written:
            announced = _EXIT.search(line[len(written) :])
            yield Command(written, int(announced[1]) if announced else 0)


@dataclass(frozen=True)
class Done:
    """A command that was run."""

    block: Block
    command: Command
    process: subprocess.CompletedProcess[str]

    @property
    def as_told(self) -> bool:
        """Whether it ended as the page says."""
        return self.process.returncode == self.command.status

    def __str__(self) -> str:
        told = f"{self.process.stdout}{self.process.stderr}"
        return f"{self.block}: {self.command.line}: {self.process.returncode}\n{told}"


@dataclass(frozen=True)
class Site:
    """The folder of a reader: the project's top, with an `up` running in it."""

    folder: Path
    gateway: str
    environ: Mapping[str, str]

    def read(self, name: str) -> list[Done]:
        """Run a page's commands in order, as one reader does; stops at a surprise."""
        named: dict[str, str] = {}
        done: list[Done] = []
        for block in blocks(name, "sh"):
            for command in commands(block):
                done.append(Done(block, command, self._run(command, named)))
                if not done[-1].as_told:
                    return done
        return done

    def _run(
        self, command: Command, named: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """As it is written, but for JOB and LETTER, which are those last heard of."""
        line = command.line.replace("localhost:8080", self.gateway)
        for word, id_ in named.items():
            line = re.sub(rf"\b{word}\b", id_, line)
        if line.startswith("make "):
            # `make up` is what runs here; the others are what CI itself is made of.
            line = f"make --dry-run --directory {ROOT} {line.removeprefix('make ')}"
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.folder,
            env=dict(self.environ),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        for word, pattern in _TOLD.items():
            if found := pattern.findall(done.stdout + done.stderr):
                named[word] = found[-1]
        return done


@contextmanager
def running(folder: Path, broker_url: str) -> Iterator[Site]:
    """`make up`, ended by Ctrl-C."""
    gateway = f"{LOOPBACK}:{free_port()}"
    _furnish(folder, gateway, broker_url)
    site = Site(folder, gateway, _environ(folder))
    log = folder / "up.log"
    with log.open("wb") as out:
        # -o: whether the environment is complete is not this test's question.
        up = subprocess.Popen(
            ["make", "-o", ".venv/.ready", "up"],
            cwd=folder,
            env=dict(site.environ),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        _wait_until_up(up, log)
        yield site
    finally:
        _end(up)


def _furnish(folder: Path, gateway: str, broker_url: str) -> None:
    """What a clone has, the files that the pages show, and addresses of our own."""
    for path in ROOT.iterdir():
        if path.name not in (".git", ".venv", ".llmgine"):
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(sys.prefix)
    for name in NAMES:
        for block in (*blocks(name, "yaml"), *blocks(name, "python")):
            if block.file:
                (folder / block.file).write_text(block.text, "utf-8")
    settings = [
        f'broker = {{url = "{broker_url}"}}',
        f'gateway = {{listen = "{gateway}"}}',
        f'flower = {{listen = "{LOOPBACK}:{free_port()}"}}',
        'tools = {modules = ["mytools"]}',
    ]
    (folder / "llmgine.toml").write_text("\n".join(settings) + "\n", "utf-8")


def _environ(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_READERS)}
    path = f"{folder / '.venv' / 'bin'}:{kept['PATH']}"
    if shutil.which("curl") is None:
        stand_in = folder / "stand-ins" / "curl"
        stand_in.parent.mkdir()
        stand_in.write_text(f"#!{sys.executable}\n{_curl_source()}", "utf-8")
        stand_in.chmod(0o755)
        path += f":{stand_in.parent}"
    return {**kept, "PATH": path}


def _curl_source() -> str:
    return Path(__file__).with_name("curl.py").read_text("utf-8")


def _wait_until_up(up: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while "Ctrl-C stops everything" not in log.read_text("utf-8"):
        told = log.read_text("utf-8")
        assert up.poll() is None, f"llmgine up ended: {told}"
        assert time.monotonic() < end, f"llmgine up is not ready: {told}"
        time.sleep(0.05)


def _end(up: subprocess.Popen[bytes]) -> None:
    if up.poll() is None:
        os.killpg(up.pid, signal.SIGINT)
    try:
        up.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(up.pid, signal.SIGKILL)
        raise
