"""`compose.yaml` as Compose reads it: variables filled in, merges applied."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?P<how>:[-+])?(?P<word>[^}]*)\})")


def filled_in(text: str, environ: Mapping[str, str]) -> str:
    """`${A:-b}` is A or b, `${A:+b}` is b if there is an A, `$$` is a dollar."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        given = environ.get(match["name"], "")
        if match["how"] == ":+":
            return match["word"] if given else ""
        return given or match["word"]

    return _VARIABLE.sub(value, text)


class ComposeFile:
    """The file under one environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.text = (ROOT / "compose.yaml").read_text("utf-8")
        self._environ = environ

    @cached_property
    def tree(self) -> dict[str, Any]:
        """All of it."""
        tree: dict[str, Any] = yaml.safe_load(filled_in(self.text, self._environ))
        return tree

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """By name."""
        services: dict[str, dict[str, Any]] = self.tree["services"]
        return services

    @property
    def ours(self) -> dict[str, dict[str, Any]]:
        """The services of our image."""
        image = self.services["gateway"]["image"]
        return {n: one for n, one in self.services.items() if one["image"] == image}

    @property
    def workers(self) -> dict[str, dict[str, Any]]:
        """The services that run `llmgine worker POOL`, by pool."""
        return {
            one["command"][1]: one
            for one in self.ours.values()
            if one["command"][0] == "worker"
        }

    def environment(self, service: str) -> dict[str, str]:
        """What the processes of a service find in their environment."""
        one = self.services[service]
        found: dict[str, str] = {}
        for file in one.get("env_file", []):
            path = ROOT / file["path"]
            if path.exists() or file["required"]:
                lines = path.read_text("utf-8").splitlines()
                found |= dict(
                    line.split("=", 1) for line in lines if not line.startswith("#")
                )
        return found | {k: str(v) for k, v in one.get("environment", {}).items()}
