"""Replays of many letters: a named action that the scheduler carries out.

Asked for once and written down, it goes on whoever dies: its letters are started at its
rate, the canaries first, and each of them in one transaction that no second one repeats.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.engine.edit import Edit, edited
from llmgine_workers.engine.planning import Models
from llmgine_workers.engine.registry import Chains
from llmgine_workers.engine.replay import Order, replay_one
from llmgine_workers.errors import Refusal
from llmgine_workers.events import facts
from llmgine_workers.ledger import replays
from llmgine_workers.ledger.connection import Ledger, LedgerDown
from llmgine_workers.ledger.replay import Action
from llmgine_workers.ledger.replays import Chosen, Extent, NewReplay, Seen

if TYPE_CHECKING:
    from llmgine_workers.runtime import Runtime

log = logging.getLogger(__name__)

RATE = 50.0
"""Jobs a second, unless it is said otherwise (interface, section 8)."""
MAX_RATE = 1000.0
STOP_IF_FAIL = 0.2
"""The share of canaries that may fail, unless it is said otherwise."""
MAX_EDITED = 1000
"""Letters of an edited replay: each is judged before the first is changed."""


@dataclass(frozen=True)
class Asked:
    """A replay as somebody asked for it; `tenant` bounds whose letters it may touch."""

    chosen: Chosen
    by: str
    tenant: str | None = None
    rate: float = RATE
    canary: int = 0
    stop_if_fail: float | None = None
    edit: Mapping[str, Any] | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What was asked for, to be kept."""
        if self.chosen.ids is not None:
            return {"ids": [str(one) for one in self.chosen.ids]}
        wanted = {k: v for k, v in vars(self.chosen.wanted).items() if v is not None}
        return {
            "filter": {
                name: clock.rfc3339(value) if hasattr(value, "astimezone") else str(value)
                for name, value in wanted.items()
            }
        }


class Rooms(Protocol):
    """What it takes to ask for a replay; to carry it out takes a whole runtime."""

    @property
    def ledger(self) -> Ledger: ...  # noqa: D102
    @property
    def chains(self) -> Chains: ...  # noqa: D102
    @property
    def models(self) -> Models: ...  # noqa: D102


async def look(rt: Rooms, asked: Asked) -> Extent:
    """What it would do. Refusal if it cannot be: bad numbers, an edit that does not fit,
    `not_found` or `already_resolved` if it names letters and none is left."""
    _check_numbers(asked)
    found = await replays.extent(rt.ledger, asked.chosen)
    _check_named(asked, found)
    if asked.edit:
        await _check_edit(rt, asked, found)
    return found


async def start(rt: Rooms, asked: Asked) -> UUID:
    """Write the action; the scheduler does the rest. Refusal as for `look`."""
    await look(rt, asked)
    id_ = clock.uuid7()
    share = asked.stop_if_fail
    new = NewReplay(
        id_, asked.tenant, asked.record, asked.edit, asked.rate, asked.canary,
        STOP_IF_FAIL if share is None and asked.canary else share, asked.by,
    )  # fmt: skip
    await replays.create(rt.ledger, new, asked.chosen)
    return id_


async def abort(rt: Rooms, replay: UUID, by: str) -> bool:
    """Start no more letters; False if it is over. What has begun goes on."""
    async with rt.ledger.transaction() as connection:
        return await replays.end(connection, replay, "aborted", f"aborted by {by}")


async def advance(rt: Runtime) -> None:
    """The scheduler's duty: every running replay goes on by what its rate allows."""
    for replay in await replays.running(rt.ledger):
        await _advance(rt, replay)


@dataclass(frozen=True)
class Take:
    """Start the next letters; none if the pace, or a canary, wants patience."""

    count: int


@dataclass(frozen=True)
class Over:
    """Nothing is left to do, or too many canaries have failed."""

    state: str
    reason: str | None = None


def decide(seen: Seen) -> Take | Over:
    """What is next for a replay that looks like this."""
    allowed = int(seen.since_s * seen.rate + 1e-6)
    if seen.canary_pending:
        return Take(min(allowed, seen.canary_pending))
    if seen.canary_running:
        return Take(0)
    if seen.canaries and seen.canary_failed > (seen.stop_if_fail or 0) * seen.canaries:
        return Over("stopped", _verdict(seen))
    if seen.pending:
        return Take(min(allowed, seen.pending))
    return Take(0) if seen.running else Over("finished")


def _verdict(seen: Seen) -> str:
    share = f"{(seen.stop_if_fail or 0) * 100:g}%"
    return (
        f"{seen.canary_failed} of {seen.canaries} canaries failed, more than {share}: "
        f"{seen.pending} letters were left as they are"
    )


async def _advance(rt: Runtime, replay: UUID) -> None:
    async with rt.ledger.transaction() as connection:
        seen = await replays.look(connection, replay)
        if seen is None:
            return
        next_up = decide(seen)
        if isinstance(next_up, Over):
            await replays.end(connection, replay, next_up.state, next_up.reason)
            letters = []
        elif next_up.count:
            letters = await replays.due(connection, replay, next_up.count)
        else:
            return
    for letter in letters:
        await _start(rt, replay, letter, seen)
    await _tell(rt, replay)


async def _start(rt: Runtime, replay: UUID, letter: UUID, seen: Seen) -> None:
    order = Order(seen.asked_by, Action(replay, letter), seen.edit)
    try:
        refused = (await replay_one(rt, letter, order)).refused
    except LedgerDown:
        raise
    except Exception as error:  # one letter's bug must not hold up all behind it
        log.exception("replay %s: letter %s", replay, letter)
        refused = f"internal error: {type(error).__name__}"
    if refused:
        await replays.refuse(rt.ledger, replay, letter, refused)


async def _tell(rt: Runtime, replay: UUID) -> None:
    row = await replays.found(rt.ledger, replay)
    if row is not None:
        names = ("state", "total", "replayed", "succeeded", "failed")
        await rt.events.emit(facts.ReplayProgress(replay, *(row[n] for n in names)))


def _check_numbers(asked: Asked) -> None:
    share = asked.stop_if_fail
    if not 0 < asked.rate <= MAX_RATE:
        _out_of_range("rate", f"more than 0 and at most {MAX_RATE:g}, got {asked.rate:g}")
    if not 0 <= asked.canary <= replays.MOST:
        _out_of_range("canary", f"0 to {replays.MOST}, got {asked.canary}")
    if share is not None and not 0 <= share <= 1:
        _out_of_range("stop_if_fail", f"a share from 0 to 1, got {share:g}")
    if share is not None and not asked.canary:
        _out_of_range("stop_if_fail", "it judges canaries, and there are none")


def _check_named(asked: Asked, found: Extent) -> None:
    if asked.chosen.ids is None:
        return
    if not found.total:
        raise Refusal("not_found", "no such dead letter")
    if found.resolved == found.total:
        raise Refusal("already_resolved", "all of these letters are resolved already")


async def _check_edit(rt: Rooms, asked: Asked, found: Extent) -> None:
    """Every job before any: an edit that fits some of them changes none."""
    if found.total > MAX_EDITED:
        _out_of_range("edit", f"at most {MAX_EDITED} letters, these are {found.total}")
    edit = Edit.parse(asked.edit or {})
    for job in await replays.chosen_jobs(rt.ledger, asked.chosen, MAX_EDITED):
        async with rt.ledger.connection() as connection:
            chain = await rt.chains.of(connection, job["chain_version"])
        if chain is None:
            continue  # refused when its turn comes, edited or not
        try:
            edited(edit, chain, job["step"], job["inputs"] or "{}", rt.models)
        except Refusal as refusal:
            detail = f"letter {job['letter']}: {refusal}"
            raise Refusal(refusal.code, detail, refusal.findings) from None


def _out_of_range(name: str, detail: str) -> None:
    raise Refusal(
        "out_of_range",
        f"{name}: {detail}",
        [{"pointer": f"/{name}", "code": "out_of_range", "detail": detail}],
    )
