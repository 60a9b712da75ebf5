"""One job's events as text for people: steps, tokens, waits, cost.

Steps that run side by side would mix their tokens, so one of them speaks at a time:
the others' words are kept and told when it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmgine_workers.cli.terminal import usd

Event = Mapping[str, Any]


class Transcript:
    """Takes events in order, answers the text to add to the screen."""

    def __init__(self) -> None:
        self._speaker: str | None = None
        self._kept: dict[str, str] = {}
        self._mid_line = False
        self.outcome: Event | None = None

    def add(self, event: Event) -> str:
        """The text for this event; kinds that mean nothing to people give none."""
        tell = _TELL.get(str(event.get("type")))
        return tell(self, event) if tell else ""

    def _line(self, text: str) -> str:
        start = "\n" if self._mid_line else ""
        self._mid_line = False
        return f"{start}{text}\n"

    def _queued(self, event: Event) -> str:
        chain = event.get("chain")
        name = chain.get("name") if isinstance(chain, Mapping) else chain
        return self._line(f"job {event['job']} · {name}")

    def _started(self, event: Event) -> str:
        model = event.get("model")
        again = f" · attempt {event['attempt']}" if event.get("attempt", 1) > 1 else ""
        return self._line(f"▸ {event['step']}{f' · {model}' if model else ''}{again}")

    def _waiting(self, event: Event) -> str:
        waiting = event.get("waiting") or {}
        detail = waiting.get("detail") or waiting.get("reason")
        return self._line(f"… {event['step']} waits: {detail}")

    def _delta(self, event: Event) -> str:
        step, text = str(event["step"]), event.get("text") or ""
        if not text:
            return ""
        if self._speaker not in (None, step):
            self._kept[step] = self._kept.get(step, "") + text
            return ""
        self._speaker = step
        before = self._told(step) if step in self._kept else ""
        self._mid_line = not text.endswith("\n")
        return before + str(text)

    def _told(self, step: str) -> str:
        """What was kept of a step, under its name."""
        told = self._line(f"  {step}:") + self._kept.pop(step)
        self._mid_line = not told.endswith("\n")
        return told

    def _restarted(self, event: Event) -> str:
        step = event["step"]
        self._kept.pop(step, None)
        self._release(step)
        return self._line(f"↻ {step} starts again: {event.get('reason')}")

    def _finished(self, event: Event) -> str:
        step, state = event["step"], event.get("state")
        told = self._told(step) if step in self._kept else ""
        mark = _MARKS.get(str(state), "·")
        told += self._line(f"{mark} {step} {state}{_about(event)}")
        self._release(step)
        return told

    def _ended(self, event: Event) -> str:
        self.outcome = event
        letter = event.get("dead_letter")
        ending = f" · dead letter {letter}" if letter else ""
        return self._line(f"= job {event.get('state')}{_about(event)}{ending}")

    def _snapshot(self, event: Event) -> str:
        self._speaker, self._kept = None, {}
        job = (event.get("snapshot") or {}).get("job") or event.get("snapshot") or {}
        return self._line(f"(the stream was lost; the job is {job.get('state')})")

    def _release(self, step: str) -> None:
        if self._speaker == step:
            self._speaker = None


def _about(event: Event) -> str:
    parts = []
    usage = event.get("usage") or {}
    if usage.get("output_tokens") is not None:
        parts.append(f"{usage.get('input_tokens')} + {usage['output_tokens']} tokens")
    if event.get("cost_usd") is not None:
        parts.append(usd(event["cost_usd"]))
    if error := event.get("error"):
        parts.append(f"{error.get('code')}: {error.get('message')}")
    return "".join(f" · {part}" for part in parts)


_MARKS = {"succeeded": "✓", "failed": "✗", "skipped": "-", "cancelled": "✗"}

_TELL: dict[str, Callable[[Transcript, Event], str]] = {
    "job.queued": Transcript._queued,
    "step.started": Transcript._started,
    "step.waiting": Transcript._waiting,
    "step.delta": Transcript._delta,
    "step.restarted": Transcript._restarted,
    "step.finished": Transcript._finished,
    "job.finished": Transcript._ended,
    "job.replayed": lambda self, event: self._line(
        f"↻ replayed from {event.get('step')}"
    ),
    "stream.snapshot": Transcript._snapshot,
}
