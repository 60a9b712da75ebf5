"""Dead letters: seen in the ledger, mirrored into `<prefix>.dead`, replayed from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.broker import Broker, DeadMessage, messages, topology
from llmgine_workers.ledger import letters
from llmgine_workers.ledger.connection import Ledger

if TYPE_CHECKING:
    from collections.abc import Mapping


MIRRORED_AT_ONCE = 500


class Rooms(Protocol):
    """What this module needs of the runtime."""

    @property
    def ledger(self) -> Ledger: ...  # noqa: D102
    @property
    def broker(self) -> Broker: ...  # noqa: D102
    @property
    def prefix(self) -> str: ...  # noqa: D102


async def mirror(rt: Rooms) -> int:
    """Row 18: publish open letters that are not in the broker yet; returns how many."""
    published = 0
    while fresh := await letters.take_unmirrored(rt.ledger, MIRRORED_AT_ONCE):
        outgoing = {messages.letter(row["id"], public(row)): row["id"] for row in fresh}
        lost = await rt.broker.publish(topology.dead_queue(rt.prefix), list(outgoing))
        await letters.unmark(rt.ledger, [outgoing[message] for message in lost])
        published += len(fresh) - len(lost)
        if lost:
            break
    return published


async def rotate_if_due(rt: Rooms) -> None:
    """Row 18: one pass if a letter was resolved, or queue and ledger do not agree."""
    depth = await rt.broker.depth(topology.dead_queue(rt.prefix))
    if depth is None:
        return
    expected = await letters.count_mirrored(rt.ledger, topology.DEAD_MAX_LENGTH)
    if depth != expected or await letters.is_dirty(rt.ledger):
        await reconcile(rt)


async def reconcile(rt: Rooms) -> dict[str, int]:
    """Make `<prefix>.dead` hold the open letters and nothing else; says what it did."""
    done = {"kept": 0, "removed": 0, "unprocessable": 0, "published": 0}
    if await letters.begin_rotate(rt.ledger):
        try:
            await _rotate(rt, done)
        finally:
            await letters.end_rotate(rt.ledger)
    return done


async def _rotate(rt: Rooms, done: dict[str, int]) -> None:
    begun = clock.uuid7()
    seen: set[UUID] = set()

    async def judge(found: Sequence[DeadMessage]) -> list[bool]:
        return await _judged(rt, found, seen, done)

    await rt.broker.mirror(judge)
    await letters.mark_unseen(rt.ledger, list(seen), begun, topology.DEAD_MAX_LENGTH)
    done["published"] = await mirror(rt)


async def _judged(
    rt: Rooms, found: Sequence[DeadMessage], seen: set[UUID], done: dict[str, int]
) -> list[bool]:
    known = await letters.states(rt.ledger, [m.letter_id for m in found if m.letter_id])
    verdicts = []
    for message in found:
        if message.letter_id is None:
            if not messages.is_hint(message):
                why = message.reason or "a message that is no hint and no letter"
                await letters.write_unprocessable(rt.ledger, message.body, why)
                done["unprocessable"] += 1
            verdicts.append(False)
            continue
        keep = known.get(message.letter_id) == "open" and message.letter_id not in seen
        seen.add(message.letter_id)
        done["kept" if keep else "removed"] += 1
        verdicts.append(keep)
    return verdicts


async def list_open(rt: Rooms, limit: int = 100) -> list[dict[str, Any]]:
    """Open letters, newest first."""
    return [public(row) for row in await letters.listed(rt.ledger, limit=limit)]


async def show(rt: Rooms, letter: UUID) -> dict[str, Any] | None:
    """One letter, by its id or its job's."""
    row = await letters.found(rt.ledger, letter)
    return public(row) if row else None


def public(row: Mapping[str, Any]) -> dict[str, Any]:
    """A letter as the interface shows it (section 8)."""
    cost, raw = row["cost"], row["raw"]
    return {
        **{key: _text(value) for key, value in row.items() if key not in ("cost", "raw")},
        "cost_usd": None if cost is None else cost / 1_000_000,
        "raw": None if raw is None else raw.decode("utf-8", "backslashreplace"),
    }


def _text(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return clock.rfc3339(value) if hasattr(value, "astimezone") else value
