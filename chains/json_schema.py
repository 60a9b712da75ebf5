"""The grammar as a JSON Schema, so that editors complete chains and mark typing errors.

    # yaml-language-server: $schema=chain.schema.json

It knows shapes, not names: what `checks.py` judges only `llmgine chains lint` can tell.
"""

from __future__ import annotations

from chains.chain import Chain
from chains.json_value import Json


def chain_schema() -> dict[str, Json]:
    """The schema (2020-12) of a chain as it is written."""
    written: dict[str, Json] = _without_nulls(Chain.model_json_schema(by_alias=True))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **written}


def _without_nulls(value: Json) -> Json:
    """What is optional is left out of a chain, not written as null."""
    if isinstance(value, list):
        return [_without_nulls(member) for member in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_nulls(member) for key, member in value.items()}
    kinds = kept.get("anyOf")
    if isinstance(kinds, list) and {"type": "null"} in kinds:
        kept.pop("default", None)
        others = [kind for kind in kinds if kind != {"type": "null"}]
        kept.pop("anyOf")
        kept |= {"anyOf": others} if len(others) > 1 else others[0]
    return kept
