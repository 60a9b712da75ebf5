"""Short ways to write the chains and expectations of these tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from chains import Chain, Finding, InvalidChain, JobFacts, StepResult, load_chain

JOB = JobFacts("0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11", {"order": "A-17"})


def llm(name: str, prompt: str = "Go on.", **more: Any) -> dict[str, Any]:
    return {"name": name, "llm": {"model": "fast", "prompt": prompt}, **more}


def tool(
    name: str, arguments: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    return {"name": name, "tool": {"use": "look", "arguments": arguments or {}}, **more}


def parallel(name: str, **branches: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "parallel": branches}


def written(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "sample", "steps": list(steps), **more}


def chain(*steps: dict[str, Any], **more: Any) -> Chain:
    return load_chain(written(*steps, **more))


def said(text: str) -> StepResult:
    return StepResult("succeeded", text, text, "sim/model")


def returned(output: Any) -> StepResult:
    return StepResult("succeeded", output)


def findings_of(definition: Any) -> tuple[Finding, ...]:
    with pytest.raises(InvalidChain) as caught:
        load_chain(definition)
    return caught.value.findings


def codes_of(definition: Any) -> dict[str, str]:
    """Pointer -> code of everything that is wrong."""
    return {finding.pointer: finding.code for finding in findings_of(definition)}


def only_finding(definition: Any) -> Finding:
    findings = findings_of(definition)
    assert len(findings) == 1, findings
    return findings[0]


def replaced(definition: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {**definition, **fields}
