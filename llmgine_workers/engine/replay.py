"""Replay: the same job again, by a person's word, from the step that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from chains import Chain, steps_of
from llmgine_workers.engine import finish, tell
from llmgine_workers.engine.finish import Consequence
from llmgine_workers.events import facts
from llmgine_workers.ledger import history, jobs, letters
from llmgine_workers.ledger import replay as ledger_replay

if TYPE_CHECKING:
    from llmgine_workers.runtime import Runtime


@dataclass(frozen=True)
class Replayed:
    """What became of one letter: `refused` says why nothing was done."""

    letter: UUID
    job: UUID | None = None
    refused: str | None = None


async def replay(rt: Runtime, ids: Sequence[UUID], by: str) -> list[Replayed]:
    """Replay letters (by their ids or their jobs'); doing it twice runs nothing twice."""
    return [await _replay(rt, one, by) for one in ids]


async def _replay(rt: Runtime, letter_or_job: UUID, by: str) -> Replayed:
    row = await letters.found(rt.ledger, letter_or_job)
    if row is None:
        return Replayed(letter_or_job, refused="no such dead letter")
    letter, job = row["id"], row["job"]
    if row["state"] != "open":
        return Replayed(letter, job, f"it is {row['resolution'] or row['state']} already")
    if job is None:
        return Replayed(letter, refused="it has no job: the message could not be read")
    told = await _reopened(rt, job, letter, by)
    if isinstance(told, str):
        return Replayed(letter, job, told)
    await rt.events.emit(facts.JobReplayed(job, row["step"] or "", letter))
    await tell.after_commit(rt, told)
    return Replayed(letter, job)


async def _reopened(
    rt: Runtime, job_id: UUID, letter: UUID, by: str
) -> Consequence | str:
    async with rt.ledger.transaction() as connection:
        job = await jobs.lock(connection, job_id)
        if job is None or job.state != "failed":
            return f"its job is {job.state if job else 'gone'}"
        chain = await rt.chains.of(connection, job.chain_version)
        if chain is None:
            return f"its chain {job.chain_version} is gone"
        missing = _missing_tools(rt, chain)
        if missing:
            return f"the tool {missing} does not exist any more"
        if (await history.read(connection, job_id)).inputs is None:
            return "its inputs are no longer kept"
        if not await ledger_replay.close_letter(connection, letter, "replayed", by):
            return "somebody else has just replayed it"
        kept = [step.path for step in steps_of(chain) if step.has_fallback]
        await ledger_replay.reopen(connection, job_id, kept)
        reopened = await jobs.lock(connection, job_id)
        assert reopened is not None  # noqa: S101 - it is locked by us
        told = Consequence(reopened)
        await finish.go_on(rt, connection, reopened, chain, told)
        return told


def _missing_tools(rt: Runtime, chain: Chain) -> str | None:
    used = (step.tool for step in steps_of(chain) if step.tool)
    return next((tool for tool in used if tool not in rt.tools), None)
