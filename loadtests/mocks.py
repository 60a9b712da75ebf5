"""Both wire formats against mock providers that others wrote.

`python -m loadtests.mocks` installs PyPI's llmock into a folder of its own, and npm's
aimock where there is npm, starts each on a private port, and makes one plain and one
streamed call in each format. Exit 1 if an answer lacks its text, its end or its usage.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmgine_workers.errors import StepFailed
from llmgine_workers.llm import Delta, LlmAnswer, LlmRequest, Message
from llmgine_workers.providers import open_providers
from llmgine_workers.settings import ProviderSettings

LLMOCK, AIMOCK = "llmock==0.2.2", "@copilotkit/aimock@1.43.0"
START_S, CALL_S, INSTALL_S = 20.0, 10.0, 180.0
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
UNDER = {
    "llmock": {"openai": "/v1", "anthropic": "/anthropic"},
    "aimock": {"openai": "/v1", "anthropic": ""},
}
"""Where each mock has a format."""
COUNTED = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12,
           "input_tokens": 5, "output_tokens": 7}  # fmt: skip


def llmock(folder: Path, port: int) -> Sequence[str]:
    """What starts llmock; installs it."""
    run([sys.executable, "-m", "venv", str(folder)])
    run([str(folder / "bin" / "pip"), "install", "-q", LLMOCK])
    return [str(folder / "bin" / "llmock"), "serve", "--port", str(port)]


def aimock(folder: Path, port: int) -> Sequence[str]:
    """What starts aimock with one answer for everything; installs it."""
    run(["npm", "install", "--silent", "--no-fund", "--prefix", str(folder), AIMOCK])
    answer = {"content": "Hello from a mock of others.", "usage": COUNTED}
    fixture = {"match": {}, "response": answer}
    (folder / "fixtures.json").write_text(json.dumps({"fixtures": [fixture]}))
    config = {"llm": {"fixtures": str(folder / "fixtures.json")}}
    (folder / "mock.json").write_text(json.dumps(config))
    program = folder / "node_modules" / ".bin" / "aimock"
    return [str(program), "-c", str(folder / "mock.json"), "-p", str(port)]


def run(command: Sequence[str]) -> None:
    """A command that has to succeed."""
    subprocess.run(command, check=True, timeout=INSTALL_S)


@contextmanager
def started(command: Sequence[str], port: int, log: Path) -> Iterator[str]:
    """The mock, for as long as it is asked; its origin."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text("utf-8", "replace"))
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def judged(wire: str, url: str, *, streamed: bool) -> str:
    """`ok`, or what is wrong with one call."""
    settings = ProviderSettings.model_validate(
        {"wire": wire, "base_url": url, "key_env": "KEY"}
    )
    provider = open_providers({wire: settings}, {"KEY": "sk-mock"})[wire]
    pieces: list[str] = []

    async def heard(delta: Delta) -> None:
        pieces.append(delta.text or "")

    request = LlmRequest(MODELS[wire], (Message("user", "Hello"),), max_tokens=50)
    try:
        answer = await provider.call(
            request, timeout_s=CALL_S, headers={}, on_delta=heard if streamed else None
        )
    except StepFailed as failed:
        return f"{failed.failure.code}: {failed.failure.message}"
    finally:
        await provider.close()
    return _verdict(answer, "".join(pieces) if streamed else answer.text)


def _verdict(answer: LlmAnswer, text: str) -> str:
    if not answer.text or text != answer.text:
        return f"text {answer.text!r}, streamed {text!r}"
    if answer.finish_reason not in ("stop", "length"):
        return f"finish_reason {answer.finish_reason!r}"
    used = answer.usage
    return "ok" if used.input_tokens and used.output_tokens else f"usage {used}"


def main() -> int:
    """All of it; how many calls went wrong decides."""
    mocks = {"llmock": llmock, **({"aimock": aimock} if shutil.which("npm") else {})}
    wrong = 0
    for name, command in mocks.items():
        with tempfile.TemporaryDirectory() as made, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            folder = Path(made)
            with started(command(folder, port), port, folder / "log") as origin:
                for wire in MODELS:
                    url = origin + UNDER[name][wire]
                    for streamed in (False, True):
                        said = asyncio.run(judged(wire, url, streamed=streamed))
                        how = "streamed" if streamed else "plain"
                        sys.stdout.write(f"{name:8}{wire:11}{how:10}{said}\n")
                        wrong += said != "ok"
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
