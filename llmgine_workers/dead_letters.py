"""Dead letters: seen in the ledger, mirrored into `<prefix>.dead`, closed from here."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import orjson

from llmgine_workers import clock
from llmgine_workers.broker import Broker, DeadMessage, messages, topology
from llmgine_workers.errors import LlmgineError
from llmgine_workers.events.emit import Events
from llmgine_workers.events.facts import LetterResolved
from llmgine_workers.ledger import letter_groups, letters
from llmgine_workers.ledger import mirror as ledger_mirror
from llmgine_workers.ledger.connection import Ledger
from llmgine_workers.ledger.letter_shapes import group, public, whole
from llmgine_workers.ledger.letters import Wanted

MIRRORED_AT_ONCE = 500
CLOSED_AT_ONCE = 1000
ALL_OPEN = Wanted()

TURN_S = 30.0
"""How long `reconcile` waits for a pass of somebody else; the longest seen took 20 s."""


class Rooms(Protocol):
    """What this module needs of the runtime."""

    @property
    def ledger(self) -> Ledger: ...  # noqa: D102
    @property
    def broker(self) -> Broker: ...  # noqa: D102
    @property
    def prefix(self) -> str: ...  # noqa: D102


class Closing(Rooms, Protocol):
    """The same, and who is told of closed letters."""

    @property
    def events(self) -> Events: ...  # noqa: D102


@dataclass(frozen=True)
class Difference:
    """One thing on which queue and ledger did not agree.

    `what`: `missing` in the queue, `resolved` and still there, there `twice`, `foreign`
    (made a letter, or dropped where the ledger has it anyway: a hint).
    """

    what: str
    letter: UUID | None
    detail: str | None = None


@dataclass
class Pass:
    """What one rotate met: how many messages stayed, and every difference it mended."""

    kept: int = 0
    differences: list[Difference] = field(default_factory=list)
    _seen: set[UUID] = field(default_factory=set)
    _raw: Counter[bytes] = field(default_factory=Counter)

    def first_of(self, letter: UUID) -> bool:
        """Whether this letter was not met before."""
        if letter in self._seen:
            return False
        self._seen.add(letter)
        return True

    def delivery(self, message: DeadMessage) -> bytes:
        """What tells a raw message from every other, also in the next pass.

        Equal messages are told apart by their number: a pass that was killed before its
        acknowledgement meets all of them again.
        """
        headers = orjson.dumps(message.headers, default=repr, option=orjson.OPT_SORT_KEYS)
        content = hashlib.sha256(headers + b"\n" + message.body).digest()
        self._raw[content] += 1
        return content + self._raw[content].to_bytes(4, "big")

    @property
    def seen(self) -> list[UUID]:
        """Every letter that was met."""
        return list(self._seen)

    @property
    def deliveries(self) -> list[bytes]:
        """Every raw message that was met."""
        return [
            content + n.to_bytes(4, "big")
            for content, count in self._raw.items()
            for n in range(1, count + 1)
        ]


async def mirror(rt: Rooms) -> int:
    """Row 18: publish open letters that are not in the broker yet; returns how many."""
    if not await ledger_mirror.has_unmirrored(rt.ledger):
        return 0
    async with ledger_mirror.turn(rt.ledger) as is_ours:
        return await _published(rt) if is_ours else 0


async def rotate_if_due(rt: Rooms) -> None:
    """Row 18: one pass if a letter was resolved, or queue and ledger do not agree."""
    depth = await rt.broker.depth(topology.dead_queue(rt.prefix))
    if depth is None:
        return
    expected = await ledger_mirror.count_mirrored(rt.ledger, topology.DEAD_MAX_LENGTH)
    if depth != expected or await ledger_mirror.is_dirty(rt.ledger):
        async with ledger_mirror.turn(rt.ledger) as is_ours:
            if is_ours:
                await _rotate(rt)


async def reconcile(rt: Rooms) -> Pass:
    """Make `<prefix>.dead` hold the open letters and nothing else; names what it mended.

    LlmgineError `dependency_down` if the broker is away, `already_running` if another
    pass does not end.
    """
    if await rt.broker.depth(topology.dead_queue(rt.prefix)) is None:
        raise LlmgineError("the broker does not answer", "dependency_down")
    deadline = asyncio.get_running_loop().time() + TURN_S
    while True:
        async with ledger_mirror.turn(rt.ledger) as is_ours:
            if is_ours:
                return await _rotate(rt)
        if asyncio.get_running_loop().time() > deadline:
            raise LlmgineError("another pass is at work", "already_running")
        await asyncio.sleep(0.1)


async def listed(
    rt: Rooms,
    wanted: Wanted = ALL_OPEN,
    limit: int = 100,
    before: UUID | None = None,
) -> list[dict[str, Any]]:
    """Letters, newest first."""
    rows = await letters.listed(rt.ledger, wanted, limit=limit, before=before)
    return [public(row) for row in rows]


async def groups(
    rt: Rooms, wanted: Wanted = ALL_OPEN, limit: int = 100
) -> list[dict[str, Any]]:
    """Letters by what they say, the latest group first."""
    return [group(row) for row in await letter_groups.listed(rt.ledger, wanted, limit)]


async def show(
    rt: Rooms, letter: UUID, tenant: str | None = None
) -> dict[str, Any] | None:
    """One letter, by its id or its job's, with its calls and the rendered request."""
    row = await letters.found(rt.ledger, letter, tenant)
    if row is None:
        return None
    job, step = row["job"], row["step"]
    if job is None:
        return whole(row, [], None)
    attempts = await letters.attempts(rt.ledger, job, row["replays"], step)
    request = await letters.request(rt.ledger, job, step) if step else None
    return whole(row, attempts, request)


async def close(
    rt: Closing, chosen: Sequence[UUID] | Wanted, state: str, by: str,
    tenant: str | None = None,
) -> list[UUID]:  # fmt: skip
    """Discard (`resolved`) or ignore (`ignored`) letters, by ids or by filters.

    Answers those that were closed by this; others were so before.
    """
    done: list[UUID] = []
    if not isinstance(chosen, Wanted):
        return await _close(rt, chosen, state, by, tenant)
    before: UUID | None = None
    while rows := await letters.listed(
        rt.ledger, chosen, limit=CLOSED_AT_ONCE, before=before
    ):
        before = rows[-1]["id"]
        done += await _close(rt, [row["id"] for row in rows], state, by, tenant)
    return done


async def _close(
    rt: Closing, ids: Sequence[UUID], state: str, by: str, tenant: str | None
) -> list[UUID]:
    rows = await letters.close(rt.ledger, ids, state, by, tenant)
    resolution = "discarded" if state == "resolved" else state
    await rt.events.emit(
        *(LetterResolved(row["id"], row["job"], resolution, by) for row in rows)
    )
    return [row["id"] for row in rows]


async def _rotate(rt: Rooms) -> Pass:
    begun = clock.before_now()
    done = Pass()
    depth = await rt.broker.depth(topology.dead_queue(rt.prefix)) or 0

    async def judge(found: Sequence[DeadMessage]) -> list[bool]:
        await ledger_mirror.keep_turn(rt.ledger)
        return await _judged(rt, found, done)

    await ledger_mirror.set_dirty(rt.ledger, dirty=False)
    if await rt.broker.mirror(judge) < depth:  # cut short: nothing is known of the rest
        await ledger_mirror.set_dirty(rt.ledger, dirty=True)
        return done
    await ledger_mirror.forget_deliveries(rt.ledger, done.deliveries)
    unseen = await ledger_mirror.forget_unseen(
        rt.ledger, done.seen, begun, topology.DEAD_MAX_LENGTH
    )
    done.differences += [Difference("missing", letter) for letter in unseen]
    await _published(rt)
    return done


async def _published(rt: Rooms) -> int:
    published = 0
    while fresh := await ledger_mirror.take_unmirrored(rt.ledger, MIRRORED_AT_ONCE):
        outgoing = {messages.letter(row["id"], public(row)): row["id"] for row in fresh}
        lost = await rt.broker.publish(topology.dead_queue(rt.prefix), list(outgoing))
        await ledger_mirror.unmark(rt.ledger, [outgoing[message] for message in lost])
        published += len(fresh) - len(lost)
        if lost:
            break
    return published


async def _judged(rt: Rooms, found: Sequence[DeadMessage], done: Pass) -> list[bool]:
    known = await ledger_mirror.states(
        rt.ledger, [m.letter_id for m in found if m.letter_id]
    )
    verdicts = []
    for message in found:
        if message.letter_id is None:
            done.differences.append(await _foreign(rt, message, done))
            verdicts.append(False)
            continue
        state = known.get(message.letter_id)
        is_first = done.first_of(message.letter_id)
        verdicts.append(state == "open" and is_first)
        if verdicts[-1]:
            done.kept += 1
        else:
            what = "twice" if state == "open" else "resolved"
            detail = state or "a letter the ledger does not know"
            done.differences.append(Difference(what, message.letter_id, detail))
    return verdicts


async def _foreign(rt: Rooms, message: DeadMessage, done: Pass) -> Difference:
    if messages.is_hint(message):
        return Difference("foreign", None, "a hint, which the ledger has")
    why = message.reason or "a message that is no hint and no letter"
    made = await letters.write_unprocessable(
        rt.ledger, message.body, why, done.delivery(message)
    )
    return Difference("foreign", made, why)
