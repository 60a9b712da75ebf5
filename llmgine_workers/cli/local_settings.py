"""The settings of everything on one machine, derived from those of the operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmgine_workers.settings import Settings

GRACE_S = 10.0
"""Ctrl-C ends within seconds: calls that take longer are handed back in order."""

_ALIASES = {
    "fast": ("openai/gpt-5-mini", "anthropic/claude-haiku-4-5"),
    "smart": ("anthropic/claude-sonnet-5", "openai/gpt-5"),
}


@dataclass(frozen=True)
class Addresses:
    """Where everything listens on this machine."""

    ledger: str
    redis: str
    broker: str
    gateway: str
    flower: str
    simulator: str


def simulated(settings: Settings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The providers that need a key and have none: the simulator plays them."""
    enabled = settings.enabled_providers(environ)
    return tuple(name for name in settings.providers if name not in enabled)


def derive(
    settings: Settings, environ: Mapping[str, str], at: Addresses
) -> dict[str, Any]:
    """The tree of a complete settings file."""
    made_up = simulated(settings, environ)
    tree: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    tree["ledger"]["url"] = at.ledger
    tree["redis"]["url"] = at.redis
    tree["broker"]["url"] = at.broker
    tree["gateway"]["listen"] = at.gateway
    tree["flower"]["listen"] = at.flower
    tree["worker"]["grace"] = min(settings.worker.grace, GRACE_S)
    for name in made_up:
        wire = settings.providers[name].wire
        tree["providers"][name] = {
            "wire": wire,
            "base_url": at.simulator + ("/v1" if wire == "openai" else ""),
            "key_env": "",
            "simulated": True,
        }
    tree["models"] = _aliases(settings, made_up) | tree["models"]
    return tree


def _aliases(settings: Settings, made_up: tuple[str, ...]) -> dict[str, list[str]]:
    """`fast` and `smart` over the known providers, those with a key first."""
    return {
        alias: sorted(
            (one for one in models if one.partition("/")[0] in settings.providers),
            key=lambda model: model.partition("/")[0] in made_up,
        )
        for alias, models in _ALIASES.items()
        if any(one.partition("/")[0] in settings.providers for one in models)
    }


def of_children(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the children: the derived file alone says what is set."""
    kept = {k: v for k, v in environ.items() if not _overrides(k)}
    return kept | {"PYTHONUNBUFFERED": "1"}


def _overrides(name: str) -> bool:
    return name.startswith("LLMGINE_") and "__" in name
