"""Chains inside chains: those that are used by name are put in their places.

What runs has no names left in it, so a job keeps the inner chains it began with, and
its version covers them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chains.chain import Chain
from chains.checks import check
from chains.findings import InvalidChain
from chains.json_value import Json
from chains.load import canonical, from_canonical


def references_of(chain: Chain) -> frozenset[str]:
    """The chains that a chain uses by name."""
    return frozenset(
        use["use"] for use in _uses(canonical(chain)) if isinstance(use["use"], str)
    )


def with_chains(chain: Chain, known: Mapping[str, Chain]) -> Chain:
    """The chain with those it names in their places, as far as they are known.

    InvalidChain where it becomes too large or an inner chain gets the wrong inputs.
    """
    definition = canonical(chain)
    for use in list(_uses(definition)):  # and not what takes their places
        if isinstance(use["use"], str) and use["use"] in known:
            use["use"] = canonical(known[use["use"]])
    if findings := check(definition):
        raise InvalidChain(findings)
    return from_canonical(definition)


def _uses(block: Json) -> Iterator[dict[str, Json]]:
    """Every `chain` of a block's steps, at any depth."""
    for step in block["steps"]:
        if use := step.get("chain"):
            yield use
        for inner in _blocks(step):
            yield from _uses(inner)


def _blocks(step: Mapping[str, Json]) -> Iterator[Json]:
    yield from ({"steps": steps} for steps in (step.get("parallel") or {}).values())
    yield from step.get("branch") or ()
    yield from (step[kind] for kind in ("map", "loop") if step.get(kind))
    if isinstance((step.get("chain") or {}).get("use"), dict):
        yield step["chain"]["use"]
