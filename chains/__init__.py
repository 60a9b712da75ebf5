"""The chain language: read, check and plan chains of LLM and tool steps.

    chain = read_chain(Path("summarize.yaml"))          # or every finding at once
    inputs, findings = fill_inputs(chain, {"text": "..."})
    plan(chain, inputs, results, JobFacts(job_id)).ready    # what to do now

Pure: nothing here waits, and nothing is read but the file it is asked for.
"""

from chains.chain import Chain, Step
from chains.failures import PlanFailed, TemplateFailed, TooLarge
from chains.findings import Finding, InvalidChain
from chains.load import (
    canonical,
    from_canonical,
    library_path,
    load_chain,
    load_library,
    parse_json,
    parse_yaml,
    read_chain,
    read_chains,
    version_of,
)
from chains.plan import Plan, plan
from chains.schema import check_schema, fill_inputs, schema_findings
from chains.scope import JobFacts
from chains.steps import ReadyStep, StepFacts, steps_of
from chains.tool_chain import single_tool_chain
from chains.walk import Cause, StepResult

CHAINS_OF = "llmgine-workers"
"""Tells this package from a user's own `chains` that shadows it."""

__all__ = [
    "CHAINS_OF",
    "Cause",
    "Chain",
    "Finding",
    "InvalidChain",
    "JobFacts",
    "Plan",
    "PlanFailed",
    "ReadyStep",
    "Step",
    "StepFacts",
    "StepResult",
    "TemplateFailed",
    "TooLarge",
    "canonical",
    "check_schema",
    "fill_inputs",
    "from_canonical",
    "library_path",
    "load_chain",
    "load_library",
    "parse_json",
    "parse_yaml",
    "plan",
    "read_chain",
    "read_chains",
    "schema_findings",
    "single_tool_chain",
    "steps_of",
    "version_of",
]
