"""What a run leaves behind: one JSON file for each part, with where it was measured."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

FOLDER = Path(__file__).parents[1] / "results"
PACKAGES = ("celery", "fastapi", "openai", "asyncpg", "pika", "redis", "uvloop")


class Taking:
    """One part being measured: its arguments, and how busy the machine was before."""

    def __init__(self, name: str, arguments: Mapping[str, float]) -> None:
        self._name = name
        self._about = {
            "part": name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "arguments": dict(arguments),
            "machine": {
                "cores": os.cpu_count(),
                "memory_gib": round(psutil.virtual_memory().total / 2**30),
                "load_before": round(os.getloadavg()[0], 2),
                "python": platform.python_version(),
                "packages": {name: version(name) for name in PACKAGES},
            },
        }

    def write(self, folder: Path, found: Mapping[str, Any]) -> None:
        """Replace the part's file."""
        folder.mkdir(parents=True, exist_ok=True)
        whole = {**self._about, "found": found}
        text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{self._name}.json").write_text(text)


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Every part that was measured, by name."""
    return {
        path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))
    }
