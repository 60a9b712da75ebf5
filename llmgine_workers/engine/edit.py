"""An edit of a replay: other inputs, or another prompt or model for the failed step.

It is judged against the job's own chain before anything is changed, and becomes a version
of that chain which only this job runs: the name in the registry goes on meaning what it
meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from chains import Chain, InvalidChain, canonical, fill_inputs, load_chain, version_of
from chains.chain import CALLING
from llmgine_workers.engine.clean import as_json
from llmgine_workers.engine.planning import Models
from llmgine_workers.errors import Refusal

FIELDS = ("inputs", "prompt", "model")


@dataclass(frozen=True)
class Edit:
    """What is to be different; None stays as it is. `inputs` replace those they name."""

    inputs: Mapping[str, Any] | None = None
    prompt: str | None = None
    model: str | tuple[str, ...] | None = None

    @classmethod
    def parse(cls, written: Mapping[str, Any]) -> Edit:
        """Refusal names the field that is unknown or of the wrong kind."""
        for name in written:
            if name not in FIELDS:
                known = ", ".join(FIELDS)
                raise _refusal("unknown_field", name, f"not a field; there are: {known}")
        inputs, prompt = written.get("inputs"), written.get("prompt")
        model = written.get("model")
        if inputs is not None and not isinstance(inputs, dict):
            raise _refusal("invalid_input", "inputs", "must be an object")
        if prompt is not None and not isinstance(prompt, str):
            raise _refusal("invalid_input", "prompt", "must be a text")
        if isinstance(model, list) and all(isinstance(one, str) for one in model):
            model = tuple(model)
        elif model is not None and not isinstance(model, str):
            raise _refusal("invalid_input", "model", "must be a text or a list of texts")
        edit = cls(inputs, prompt, model)
        if edit == cls():
            raise _refusal("invalid_input", "", f"give one of {', '.join(FIELDS)}")
        return edit

    def as_dict(self) -> dict[str, Any]:
        """What was given, as JSON."""
        return {name: v for name in FIELDS if (v := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Edited:
    """The chain and, if they are others now, the inputs (JSON) of one job."""

    chain: Chain
    version: str
    inputs: str | None


def edited(
    edit: Edit, chain: Chain, step: str | None, inputs: str, models: Models
) -> Edited:
    """The job's chain and inputs with the edit; Refusal says what does not fit."""
    if edit.prompt is not None or edit.model is not None:
        chain = _rewritten(edit, chain, step, models)
    filled = None
    if edit.inputs is not None:
        values, findings = fill_inputs(chain, {**orjson.loads(inputs), **edit.inputs})
        if findings:
            told = [finding.as_dict() for finding in findings]
            sentence = "; ".join(finding.detail for finding in findings)
            raise Refusal(findings[0].code, sentence, told)
        filled = as_json(values)
    return Edited(chain, version_of(chain), filled)


def _rewritten(edit: Edit, chain: Chain, step: str | None, models: Models) -> Chain:
    definition: Any = canonical(chain)
    call = _call(definition, step)
    if edit.model is not None:
        wanted = (edit.model,) if isinstance(edit.model, str) else edit.model
        (models.embedding if "input" in call else models.candidates)(wanted)
        call["model"] = list(wanted)
    if edit.prompt is not None and "input" in call:
        raise _refusal("invalid_input", "prompt", "an embed step has none, only a model")
    if edit.prompt is not None:
        call.pop("messages", None)
        call["prompt"] = edit.prompt
    try:
        return load_chain(definition)
    except InvalidChain as error:
        findings = [finding.as_dict() for finding in error.findings]
        raise Refusal("invalid_chain", str(error), findings) from None


def _call(definition: Mapping[str, Any], path: str | None) -> dict[str, Any]:
    if path is None:
        raise _refusal("invalid_input", "", "no step of the job failed: only its inputs")
    step = _find(definition["steps"], path.split("."))
    if step is None or not step.keys() & {*CALLING}:
        detail = f"the step {path} calls no model: it has neither prompt nor model"
        raise _refusal("invalid_input", "", detail)
    call: dict[str, Any] = step.get("llm") or step["embed"]
    return call


def _find(steps: list[dict[str, Any]], parts: list[str]) -> dict[str, Any] | None:
    """The step of a path, whose parts are names of steps, branches, items and turns."""
    step = next((step for step in steps if step["name"] == parts[0]), None)
    if step is None or len(parts) == 1:
        return step
    found = (_find(inner, rest) for inner, rest in _inside(step, parts[1:]) if rest)
    return next((one for one in found if one is not None), None)


def _inside(
    step: Mapping[str, Any], parts: list[str]
) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """The lists of steps inside a step, each with what the path says of it."""
    for branch, steps in (step.get("parallel") or {}).items():
        if branch == parts[0]:
            yield steps, parts[1:]
    for number, case in enumerate(step.get("branch") or []):
        if str(number) == parts[0]:
            yield case["steps"], parts[1:]
    for kind in ("map", "loop"):
        yield (step.get(kind) or {}).get("steps", []), parts[1:]
    if step.get("chain"):
        yield step["chain"]["use"]["steps"], parts


def _refusal(code: str, name: str, detail: str) -> Refusal:
    at = f"/edit/{name}" if name else "/edit"
    return Refusal(
        code, f"{at}: {detail}", [{"pointer": at, "code": code, "detail": detail}]
    )
