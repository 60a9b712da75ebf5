"""What is next: one pure function, a replay of a chain over its finished steps.

`plan()` walks the chain from its beginning every time and keeps nothing between two
calls, so it never matters which results came first, how often it is asked, or which
process asks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from chains.chain import Chain
from chains.json_value import Json
from chains.kinds import VISITS
from chains.scope import Ended, JobFacts, Root, Scope
from chains.steps import ReadyStep
from chains.walk import Cause, Failed, Skipped, StepResult, Walk


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `output` is the chain's when `finished`, else null.

    `unwanted` steps have begun beside one that failed and was stood in for: what of
    them does not run yet should not. With `failed` the chain cannot go on, whatever
    else happens; it names the steps to blame.
    """

    ready: tuple[ReadyStep, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    unwanted: tuple[str, ...] = ()
    failed: tuple[Cause, ...] = ()
    finished: bool = False
    output: Json = None


def plan(
    chain: Chain,
    inputs: Mapping[str, Json],
    results: Mapping[str, StepResult],
    job: JobFacts,
    started: Collection[str] = frozenset(),
) -> Plan:
    """The steps that can start, given which ended (`results`) or began (`started`)."""
    walk = Walk(VISITS, results, frozenset(started))
    root = Scope(Root(dict(inputs), job, chain.defaults))
    end = walk.block(chain, "", root)
    if isinstance(end, Failed):
        return Plan(failed=end.causes)
    return Plan(
        tuple(walk.ready),
        tuple(walk.skipped),
        tuple(dict.fromkeys(walk.unwanted)),
        finished=isinstance(end, Ended),
        output=end.output if end else None,
    )
