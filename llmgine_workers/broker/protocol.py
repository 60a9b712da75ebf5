"""The four verbs that every broker has, and the times they keep."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from llmgine_workers.broker.messages import DeadMessage, Message

CONFIRM_S = 5.0
"""Seconds after which a message counts as not confirmed (architecture, section 4)."""

CONNECT_S = 4.0
"""Seconds for one attempt to connect; less than `CONFIRM_S`, so a first call waits."""

PROBE_S = 1.0
"""Seconds between attempts while the broker is away."""

MIRROR_BATCH = 500
"""Messages a judge sees at once."""

Judge = Callable[[Sequence[DeadMessage]], Awaitable[Sequence[bool]]]
"""Says for each message whether it stays in the mirror."""


class BrokerAway(Exception):
    """Inside this room only: the connection or channel is gone."""


class Broker(Protocol):
    """What moves hints and mirrors letters. Its trouble is answered, never raised."""

    @property
    def up(self) -> bool:
        """Whether a publish would be tried now."""
        ...

    async def publish(self, queue: str, messages: Sequence[Message]) -> list[Message]:
        """Publish and return those NOT confirmed, within `CONFIRM_S` or at once.

        Not confirmed: refused, returned as unroutable, timed out, the connection lost.
        Such a message may arrive all the same. While the broker is known to be away,
        the answer is immediate.
        """
        ...

    async def depth(self, queue: str) -> int | None:
        """Messages ready in the queue; None if unknown: no such queue, broker away."""
        ...

    async def mirror(self, judge: Judge) -> int:
        """One pass over `<prefix>.dead`: what `judge` keeps stays, the rest leaves.

        Returns how many messages were settled. Killed at any point it may leave a
        message twice (the next pass removes one), but never loses one. What `judge`
        raises is raised, and the messages it was asked about stay.
        """
        ...

    async def close(self) -> None:
        """Let go of the connection; the broker cannot be used again."""
        ...
