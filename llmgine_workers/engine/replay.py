"""Replay: the same job again, by a person's word, from the step that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chains import Chain, steps_of
from llmgine_workers.engine import consequence, next_up, tell
from llmgine_workers.engine.consequence import Consequence
from llmgine_workers.engine.edit import Edit, Edited, edited
from llmgine_workers.engine.planning import new_step
from llmgine_workers.errors import Refusal, StepFailed
from llmgine_workers.events import facts
from llmgine_workers.ledger import jobs, letters
from llmgine_workers.ledger import replay as ledger_replay
from llmgine_workers.ledger.connection import Connection
from llmgine_workers.ledger.records import LockedJob
from llmgine_workers.ledger.replay import Action

if TYPE_CHECKING:
    from llmgine_workers.runtime import Runtime


@dataclass(frozen=True)
class Replayed:
    """What became of one letter: `refused` says why nothing was done."""

    letter: UUID
    job: UUID | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Order:
    """By whose word, as part of which action, and with what changed."""

    by: str
    action: Action | None = None
    edit: Mapping[str, Any] | None = None


class _Refused(Exception):
    """Why this letter is not replayed; what was written for it is taken back."""


async def replay(rt: Runtime, ids: Sequence[UUID], by: str) -> list[Replayed]:
    """Replay letters (by their ids or their jobs'); doing it twice runs nothing twice."""
    return [await replay_one(rt, one, Order(by)) for one in ids]


async def replay_one(rt: Runtime, letter_or_job: UUID, order: Order) -> Replayed:
    """Replay one letter."""
    row = await letters.found(rt.ledger, letter_or_job)
    if row is None:
        return Replayed(letter_or_job, refused="no such dead letter")
    letter, job = row["id"], row["job"]
    if row["state"] == "resolved":
        return Replayed(letter, job, f"it is {row['resolution']} already")
    if job is None:
        return Replayed(letter, refused="it has no job: the message could not be read")
    try:
        told = await _reopened(rt, row, order)
    except _Refused as refused:
        return Replayed(letter, job, str(refused))
    await rt.events.emit(
        facts.JobReplayed(job, row["step"] or "", letter),
        facts.LetterResolved(letter, job, "replayed", order.by),
    )
    await tell.after_commit(rt, [told])
    return Replayed(letter, job)


async def _reopened(rt: Runtime, letter: Mapping[str, Any], order: Order) -> Consequence:
    async with rt.ledger.transaction() as connection:
        job = await _failed_job(connection, letter["job"])
        chain = await _runnable_chain(rt, connection, job)
        past = (await next_up.read(connection, {job.id: chain}))[job.id]
        if past.inputs is None:
            raise _Refused("its inputs are no longer kept")
        if order.action and not await ledger_replay.take(
            connection, order.action, job.run + 1
        ):
            raise _Refused("the replay has been aborted, or has started it before")
        if not await ledger_replay.close_letter(connection, letter["id"], order.by):
            raise _Refused("somebody else has just replayed it")
        blamed = {cause.step for cause in next_up.replayed(job, chain, past).failed}
        if order.edit:
            done = _edited(rt, order.edit, chain, letter["step"], past.inputs)
            await _write(rt, connection, job, done)
            chain = done.chain
        again = await ledger_replay.reopen(connection, job.id, blamed)
        reopened = await jobs.lock(connection, job.id)
        assert reopened is not None  # noqa: S101 - it is locked by us
        if order.edit:
            await _render_again(rt, connection, reopened, chain, again)
        told = Consequence(reopened)
        await consequence.go_on(rt, connection, [(told, chain)])
        return told


async def _failed_job(connection: Connection, job_id: UUID) -> LockedJob:
    job = await jobs.lock(connection, job_id)
    if job is None or job.state != "failed":
        raise _Refused(f"its job is {job.state if job else 'gone'}")
    return job


async def _runnable_chain(rt: Runtime, connection: Connection, job: LockedJob) -> Chain:
    chain = await rt.chains.of(connection, job.chain_version)
    if chain is None:
        raise _Refused(f"its chain {job.chain_version} is gone")
    used = (step.tool for step in steps_of(chain) if step.tool)
    missing = next((tool for tool in used if tool not in rt.tools), None)
    if missing:
        raise _Refused(f"the tool {missing} does not exist any more")
    return chain


def _edited(
    rt: Runtime, edit: Mapping[str, Any], chain: Chain, step: str | None, inputs: str
) -> Edited:
    try:
        return edited(Edit.parse(edit), chain, step, inputs, rt.models)
    except Refusal as refusal:
        raise _Refused(f"the edit does not fit: {refusal}") from None


async def _write(
    rt: Runtime, connection: Connection, job: LockedJob, done: Edited
) -> None:
    if done.inputs is not None:
        await ledger_replay.change_inputs(connection, job.id, job.run, done.inputs)
    if done.version != job.chain_version:
        await rt.chains.keep(connection, done.chain)
        await ledger_replay.change_chain(connection, job.id, done.version)


async def _render_again(
    rt: Runtime, connection: Connection, job: LockedJob, chain: Chain,
    again: Sequence[str],
) -> None:  # fmt: skip
    """The requests of steps that run again were rendered before the edit."""
    past = (await next_up.read(connection, {job.id: chain}))[job.id]
    planned = next_up.replayed(job, chain, replace(past, known=past.known - set(again)))
    if planned.failed:
        cause = planned.failed[0]
        raise _Refused(f"the edit does not fit: {cause.step}: {cause.message}")
    try:
        fresh = [new_step(s, rt.models, job.max_attempts) for s in planned.ready]
    except (StepFailed, Refusal) as error:
        raise _Refused(f"the edit does not fit: {error}") from None
    await ledger_replay.rewrite(
        connection, job.id, [step for step in fresh if step.path in again]
    )
