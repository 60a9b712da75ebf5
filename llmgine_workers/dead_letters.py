"""Dead letters: seen in the ledger, mirrored into `<prefix>.dead`, replayed from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from llmgine_workers import clock
from llmgine_workers.broker import Broker, DeadMessage, messages
from llmgine_workers.ledger import letters, release
from llmgine_workers.ledger.connection import Ledger

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    fresh = await letters.unmirrored(rt.ledger)
    if not fresh:
        return 0
    outgoing = {messages.letter(row["id"], public(row)): row["id"] for row in fresh}
    lost = await rt.broker.publish(f"{rt.prefix}.dead", list(outgoing))
    confirmed = [id_ for message, id_ in outgoing.items() if message not in lost]
    await letters.mark_mirrored(rt.ledger, confirmed)
    return len(confirmed)


async def rotate_if_due(rt: Rooms) -> None:
    """Row 18: one pass when a letter was resolved or a raw message may have come."""
    async with rt.ledger.connection() as connection:
        due = await letters.rotate_due(connection)
    depth = await rt.broker.depth(f"{rt.prefix}.dead")
    mirrored = await letters.count_mirrored(rt.ledger)
    if depth is not None and (due or depth != mirrored):
        await reconcile(rt)


async def reconcile(rt: Rooms) -> dict[str, int]:
    """Make `<prefix>.dead` hold the open letters and nothing else; says what it did."""
    begun = clock.uuid7()
    seen: set[UUID] = set()
    done = {"kept": 0, "removed": 0, "unprocessable": 0, "published": 0}

    async def judge(found: Sequence[DeadMessage]) -> list[bool]:
        return await _judged(rt, found, seen, done)

    async with rt.ledger.connection() as connection, connection.transaction():
        if not await release.mine(connection, "rotate"):
            return done
        await letters.set_dirty(connection, dirty=False)
    await rt.broker.mirror(judge)
    await letters.mark_unseen(rt.ledger, list(seen), begun)
    done["published"] = await mirror(rt)
    return done


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
