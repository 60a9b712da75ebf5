"""The models that can be asked here: aliases, and what the enabled providers price."""

from __future__ import annotations

import asyncio
from typing import Any

from llmgine_workers.prices import priced_models
from llmgine_workers.runtime import Runtime


async def listed(rt: Runtime) -> list[dict[str, Any]]:
    """Every one as OpenAI shows it; `owned_by` is the provider, or `alias`.

    A provider takes others as well: this is what we know a price of.
    """
    aliases = [
        name
        for name, models in rt.settings.models.items()
        if any(model.partition("/")[0] in rt.models.enabled for model in models)
    ]
    # Reading the price book the first time takes half a second.
    book = await asyncio.to_thread(priced_models, frozenset(rt.models.enabled))
    named = {*book, *(name for name in rt.settings.prices if _is_one(rt, name))}
    return [
        *(_shown(name, "alias") for name in aliases),
        *(_shown(name, name.partition("/")[0]) for name in sorted(named)),
    ]


def _is_one(rt: Runtime, name: str) -> bool:
    provider = name.partition("/")[0]
    return provider in rt.models.enabled and not set(name) & set("*?[")


def _shown(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
