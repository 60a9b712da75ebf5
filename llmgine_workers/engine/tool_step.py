"""The call of a `tool` step: a registered function, its arguments already rendered."""

from __future__ import annotations

from llmgine_workers.engine.visit import Answer, Visit


async def call_tool(visit: Visit) -> Answer:
    """Run the tool; it raises StepFailed with a tool code and nothing else."""
    output = await visit.rt.tools.call(
        visit.request["tool"],
        visit.request["arguments"],
        timeout_s=visit.call_seconds_left,
    )
    return Answer(output)
