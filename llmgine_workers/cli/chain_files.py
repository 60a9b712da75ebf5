"""Chain files on this machine: read, checked here, findings with their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chains import canonical, read_chain
from chains.chain import Chain
from llmgine_workers.errors import LlmgineError


def read(path: Path) -> Chain:
    """The chain of a file. InvalidChain holds every finding, with line and column."""
    try:
        return read_chain(path)
    except OSError as error:
        raise LlmgineError(f"{path}: {error.strerror}", "unknown_chain") from None


def definition(path: Path) -> dict[str, Any]:
    """The chain of a file as the gateway takes it."""
    return canonical(read(path))
