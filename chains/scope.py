"""What the paths of a template mean while a chain is replayed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from chains.chain import Defaults
from chains.json_value import Json
from chains.template import Path, dig


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What a chain may know of its job. The id is a UUID as text."""

    id: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class Ended(NamedTuple):
    """How a step ended, as `steps.NAME` shows it."""

    output: Json
    text: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Root:
    """What is the same everywhere in one chain of a job."""

    inputs: Mapping[str, Json]
    job: JobFacts
    defaults: Defaults


@dataclass(frozen=True, slots=True)
class Scope:
    """One list of steps being replayed, within the lists around it.

    `ended` fills up during the walk. `own` holds what only this list has, such as
    `item` and `index`; the innermost list that has a name owns it.
    """

    root: Root
    outer: Scope | None = None
    names: frozenset[str] = frozenset()
    ended: dict[str, Ended] = field(default_factory=dict)
    own: Mapping[str, Json] = field(default_factory=dict)

    def inside(
        self, names: Iterable[str], own: Mapping[str, Json] | None = None
    ) -> Scope:
        """The scope of a list of steps that stands in this one."""
        return Scope(self.root, self, frozenset(names), own=own or {})

    def lookup(self, path: Path) -> Json:
        """The value of a path; null if there is none."""
        root, *rest = path
        if root == "inputs":
            return dig(self.root.inputs, rest)
        if root == "steps":
            return self._step(rest)
        if root == "job":
            job = {"id": self.root.job.id, "metadata": dict(self.root.job.metadata)}
            return dig(job, rest)
        return self._own(root, rest)

    def _step(self, rest: list[str]) -> Json:
        if len(rest) < 2:
            return None  # a step as a whole is no value
        scope: Scope | None = self
        while scope and rest[0] not in scope.names:
            scope = scope.outer
        ended = scope.ended.get(rest[0]) if scope else None
        return dig(ended._asdict(), rest[1:]) if ended else None

    def _own(self, name: str, rest: list[str]) -> Json:
        scope: Scope | None = self
        while scope and name not in scope.own:
            scope = scope.outer
        return dig(scope.own[name], rest) if scope else None
