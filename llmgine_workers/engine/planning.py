"""From what `plan()` found ready to rows of the ledger: pool, model, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from chains import ReadyStep, StepFacts
from llmgine_workers.engine.bounds import bounds_of
from llmgine_workers.engine.clean import as_json
from llmgine_workers.engine.vectors import check_room
from llmgine_workers.errors import Refusal
from llmgine_workers.ledger.records import NewStep
from llmgine_workers.providers.rows import Service, row_of
from llmgine_workers.settings import TOOLS_POOL, Settings


@dataclass(frozen=True)
class Models:
    """Which models there are: aliases, and the providers that are enabled here."""

    settings: Settings
    enabled: frozenset[str]

    def candidates(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """`provider/model` names in order of preference, of enabled providers only.

        Refusal names what is unknown or not enabled.
        """
        named = [model for name in wanted for model in self._behind(name)]
        for model in named:
            self._check_known(model)
        enabled = [m for m in named if m.partition("/")[0] in self.enabled]
        usable = tuple(sorted(enabled, key=self.is_simulated))  # real ones first
        if not usable:
            raise Refusal(
                "provider_not_enabled",
                f"no provider of {', '.join(named)} is enabled here: its key is missing",
            )
        return usable

    def of(self, step: StepFacts) -> tuple[str, ...]:
        """The candidates that can do what the step asks of a model."""
        return (
            self.embedding(step.models)
            if step.kind == "embed"
            else self.candidates(step.models)
        )

    def embedding(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """The candidates whose provider has embeddings; Refusal if there is none."""
        usable = self.candidates(wanted)
        embedding = tuple(model for model in usable if self._row(model).embeddings)
        if not embedding:
            told = f"no provider of {', '.join(usable)} has embeddings"
            raise Refusal("embeddings_not_supported", told)
        return embedding

    def is_simulated(self, model: str | None) -> bool:
        """Whether the answers of this model are made up."""
        provider = self.settings.providers.get((model or "").partition("/")[0])
        return provider.simulated if provider else False

    def _behind(self, name: str) -> tuple[str, ...]:
        if "/" in name:
            return (name,)
        if name not in self.settings.models:
            known = ", ".join(sorted(self.settings.models)) or "none"
            raise Refusal("unknown_model", f"no model alias {name!r}; there are: {known}")
        return self.settings.models[name]

    def _row(self, model: str) -> Service:
        provider = model.partition("/")[0]
        return row_of(provider, self.settings.providers[provider])

    def _check_known(self, model: str) -> None:
        provider = model.partition("/")[0]
        if provider not in self.settings.providers:
            known = ", ".join(sorted(self.settings.providers))
            raise Refusal(
                "unknown_provider", f"no provider {provider!r}; there are: {known}"
            )


def new_step(step: ReadyStep, models: Models, max_attempts: int) -> NewStep:
    """The ledger's row of a step; Refusal if its models cannot be used here."""
    defaults = models.settings.steps
    timeout_s = step.timeout_s or defaults.timeout
    attempts = step.attempts or max_attempts
    if step.kind == "tool":
        request = {"tool": step.tool, **step.request}
        return NewStep(
            step.path, "tool", TOOLS_POOL, as_json(request), timeout_s, attempts
        )
    if step.kind == "wait":
        for_s = step.request["for_s"]
        return NewStep(step.path, "wait", "", as_json(step.request), for_s, 1)
    candidates = models.of(step)
    request = {**step.request, "models": candidates}
    if step.kind == "llm":
        request["schema"] = step.schema
    else:
        check_room(step.request)
    bounds = bounds_of(request)
    return NewStep(
        path=step.path,
        kind=step.kind,
        pool=candidates[0].partition("/")[0],
        request=as_json(request),
        timeout_s=timeout_s,
        max_attempts=attempts,
        model=candidates[0],
        models=candidates,
        why="first choice" if candidates[0] == step.models[0] else "first enabled",
        tokens_in=bounds.input_tokens,
        tokens_out=bounds.output_tokens,
    )


def parsed(request: str) -> Mapping[str, object]:
    """A stored request."""
    found: Mapping[str, object] = orjson.loads(request)
    return found
