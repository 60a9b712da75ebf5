"""A file whose age tells a probe that a process still works: touched while it does.

A probe compares the file's time with now; it costs a `stat`, not a program's start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

TOUCH_S = 2.0
"""Seconds between two touches; a probe should allow for several."""


def toucher(path: str) -> Callable[[], None]:
    """What touches the file; nothing at all without a path."""
    if not path:
        return lambda: None
    file = Path(path)

    def touch() -> None:
        try:
            file.touch()
        except OSError as error:  # a full disk must not stop the work
            log.warning("%s cannot be touched: %s", file, error.strerror)

    return touch
