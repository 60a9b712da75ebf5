"""What every command is given: where its settings are, and its environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from llmgine_workers.settings import Settings

Result = TypeVar("Result")

JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


@dataclass(frozen=True)
class Invocation:
    """One run of the command line; `typer.Context.obj`."""

    config: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def settings(self) -> Settings:
        """The settings of this run; ConfigurationError names what is wrong.

        Beside a running `llmgine up` they are its own, addresses included.
        """
        from llmgine_workers import settings
        from llmgine_workers.cli import state

        config = self.config
        if config is None and state.up_runs_here():
            config = state.CONFIG
        return settings.load(config, self.environ)

    def written_settings(self) -> Settings:
        """The settings as the operator wrote them, for what starts everything anew."""
        from llmgine_workers import settings

        return settings.load(self.config, self.environ)


def of(context: typer.Context) -> Invocation:
    """The invocation a command runs in."""
    found = context.find_root().obj
    assert isinstance(found, Invocation)  # noqa: S101 - set by the root callback
    return found


def wait_for(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run one coroutine to its end."""
    import asyncio

    return asyncio.run(work())
