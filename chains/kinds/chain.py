"""`chain`: another chain as a step, which sees its own inputs and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from chains.chain import Chain, Step
from chains.failures import TemplateFailed
from chains.json_value import Json
from chains.schema import fill_inputs
from chains.scope import Root, Scope
from chains.template import render
from chains.walk import End, Walk


def visit(walk: Walk, step: Step, path: str, scope: Scope) -> End:
    """The inner chain's steps, below this step's path."""
    assert step.chain is not None  # noqa: S101 - the step's kind says so
    inner = step.chain.use
    if not isinstance(inner, Chain):
        raise TemplateFailed(path, "", f"the chain {inner} was not put in its place")
    given = render(step.chain.inputs, scope.lookup, path)
    inputs = _filled(inner, given, path)
    root = Root(inputs, scope.root.job, inner.defaults)
    return walk.block(inner, f"{path}.", Scope(root))


def _filled(inner: Chain, given: Mapping[str, Json], path: str) -> Mapping[str, Json]:
    inputs, findings = fill_inputs(inner, given)
    if findings:
        unfit = "; ".join(f"{f.pointer.strip('/')}: {f.detail}" for f in findings[:5])
        raise TemplateFailed(path, "", unfit)
    return inputs
