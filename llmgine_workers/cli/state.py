"""`.llmgine/`: what `up` leaves for whoever works in the same directory."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmgine_workers.errors import LlmgineError

HOME = Path(".llmgine")
KEY = HOME / "key"
URL = HOME / "url"
CONFIG = HOME / "llmgine.toml"
FLOWER = HOME / "flower"
LOGS = HOME / "logs"
_LOCK = HOME / "lock"


class AlreadyRunning(LlmgineError):
    """Another `up` runs in this directory."""

    code = "already_running"


@contextmanager
def held() -> Iterator[None]:
    """Hold the directory for this process; AlreadyRunning if another does."""
    HOME.mkdir(mode=0o700, exist_ok=True)
    with _LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            here = HOME.parent.absolute()
            raise AlreadyRunning(f"another llmgine up runs in {here}") from None
        yield


def up_runs_here() -> bool:
    """Whether a living `up` holds this directory."""
    try:
        with _LOCK.open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return CONFIG.exists()
    return False


def forget() -> None:
    """Remove everything but the lock that is held."""
    import shutil

    for entry in HOME.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry != _LOCK:
            entry.unlink()


def written(path: Path) -> str | None:
    """The one line of a file; None without it."""
    try:
        return path.read_text("ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
