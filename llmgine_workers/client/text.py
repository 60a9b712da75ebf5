"""A job's words as they stand: deltas appended, withdrawn and replaced as told."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import cast

from llmgine_workers.client.events import (
    Event,
    StepDelta,
    StepFinished,
    StepRestarted,
    StepStarted,
    StreamSnapshot,
)

Source = Iterable[Event] | AsyncIterable[Event]


class Text:
    """The text of a job's steps, kept up to date by its events.

    `for text in Text(client.stream(job))`, or `async for`, yields the whole text each
    time it changes; with `step` only that one's. Without a loop, `add` events yourself.
    """

    def __init__(self, events: Source = (), *, step: str | None = None) -> None:
        self._events = events
        self._step = step
        self._pieces: dict[str, list[str]] = {}
        self._begun: set[str] | None = None  # None: no beginning was missed

    def __str__(self) -> str:
        if self._step is not None:
            return self.of(self._step)
        return "\n\n".join(filter(None, map(self.of, self._pieces)))

    def __iter__(self) -> Iterator[str]:
        for event in cast("Iterable[Event]", self._events):
            if self.add(event):
                yield str(self)

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in cast("AsyncIterable[Event]", self._events):
            if self.add(event):
                yield str(self)

    def of(self, step: str) -> str:
        """The text of that step so far."""
        return "".join(self._pieces.get(step, ()))

    @property
    def steps(self) -> tuple[str, ...]:
        """The paths of the steps that have text, in the order they began to speak."""
        return tuple(self._pieces)

    def add(self, event: Event) -> bool:
        """Take the next event; answers whether it changed the text."""
        if isinstance(event, StreamSnapshot):
            return self._replace_all(event)
        step = getattr(event, "step", None)
        if step is None or self._step not in (None, step):
            return False
        if isinstance(event, StepDelta):
            return self._append(step, event.text)
        if isinstance(event, StepStarted | StepRestarted):
            if self._begun is not None:
                self._begun.add(step)
            return self._replace(step, None)
        if isinstance(event, StepFinished):
            return self._replace(step, event.text)
        return False

    def _append(self, step: str, piece: str | None) -> bool:
        # The end of a text whose beginning is lost would read like the whole of it.
        if not piece or (self._begun is not None and step not in self._begun):
            return False
        self._pieces.setdefault(step, []).append(piece)
        return True

    def _replace(self, step: str, text: str | None) -> bool:
        before = self.of(step)
        if text:
            self._pieces[step] = [text]
        else:
            self._pieces.pop(step, None)
        return before != (text or "")

    def _replace_all(self, event: StreamSnapshot) -> bool:
        before = str(self)
        steps = event.snapshot.steps if event.snapshot else ()
        self._pieces = {step.path: [step.text] for step in steps if step.text}
        self._begun = set()
        return before != str(self)
