"""The operator's limits as rules: which of them a call falls under, and what it asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from llmgine_workers.ephemeral.rules import Charge, InFlight, Rule, Window
from llmgine_workers.llm import Quota
from llmgine_workers.settings import AMOUNTS, LimitSettings, Rate

PROVIDER_WINDOW_S = 60.0
"""What providers say is left, they say of a minute."""

Units = Mapping[str, int]
"""How much of each of the settings' `AMOUNTS` a call needs, or used."""


@dataclass(frozen=True)
class Demand:
    """What one call asks of the limits; tokens are upper bounds.

    `model` is `provider/model`. `step` tells steps apart and sorts them by age.
    """

    model: str
    tenant: str
    input_tokens: int = 0
    output_tokens: int = 0
    step: str = ""

    @property
    def provider(self) -> str:
        """Whose model it is."""
        return self.model.partition("/")[0]

    @property
    def units(self) -> Units:
        """What is to be reserved."""
        return units_of(self.input_tokens, self.output_tokens)


class Rules:
    """Every limit of the settings, and the ones that a call falls under."""

    def __init__(self, limits: Iterable[LimitSettings]) -> None:
        self._limits = tuple(limits)
        self._of = lru_cache(maxsize=4096)(self._find)

    def of(self, model: str, tenant: str) -> Sequence[Rule]:
        """The rules for calls of `provider/model` by that tenant."""
        return self._of(model, tenant)

    def shared(self, provider: str) -> Sequence[Rule]:
        """The rules that hold for all calls of a provider together."""
        return tuple(
            rule
            for limit in self._limits
            if limit.match in ("*", f"{provider}/*") and limit.per is None
            for rule in _rules(limit, "")
        )

    def of_provider(self, provider: str, tenants: Iterable[str]) -> Sequence[Rule]:
        """Every rule that a call of the provider by one of the tenants may fall under."""
        return tuple(
            rule
            for limit in self._limits
            if limit.provider in (None, provider)
            for tenant in (tenants if limit.per else ("",))
            for rule in _rules(limit, tenant)
        )

    def charges(self, demand: Demand) -> tuple[Charge, ...]:
        """What a call takes of each of its rules."""
        units = demand.units
        return tuple(
            Charge(rule, units[unit_of(rule)])
            for rule in self.of(demand.model, demand.tenant)
        )

    def never_fits(self, demand: Demand) -> tuple[str, int] | None:
        """Why a call can never be admitted, and by which limit; None if it can."""
        for charge in self.charges(demand):
            rule = charge.rule
            if charge.amount > rule.limit:
                unit = unit_of(rule).replace("_", " ")
                return (
                    f"the call may use {charge.amount} {unit}, "
                    f"and {rule.name} never admits more than {rule.limit}",
                    rule.limit,
                )
        return None

    def bounds_output(self, model: str) -> bool:
        """Whether a call without `max_tokens` could use more than any limit."""
        return any(
            limit.matches(model) and (limit.tokens or limit.output_tokens)
            for limit in self._limits
        )

    def told(self, rules: Iterable[Rule], quota: Quota) -> dict[Rule, int]:
        """What the provider says is left, for the rules that its words are about."""
        return {
            rule: left
            for rule in rules
            if isinstance(rule, Window)
            and rule.window_s == PROVIDER_WINDOW_S
            and rule.is_of_provider
            and (left := getattr(quota, rule.unit)) is not None
        }

    def _find(self, model: str, tenant: str) -> tuple[Rule, ...]:
        return tuple(
            rule
            for limit in self._limits
            if limit.matches(model)
            for rule in _rules(limit, tenant)
        )


def units_of(input_tokens: int, output_tokens: int) -> Units:
    """One call with so many tokens, in every unit that a limit can count."""
    return {
        "requests": 1,
        "tokens": input_tokens + output_tokens,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "in_flight": 1,
    }


def unit_of(rule: Rule) -> str:
    """Which of the settings' `AMOUNTS` a rule counts."""
    return rule.unit if isinstance(rule, Window) else "in_flight"


def _rules(limit: LimitSettings, tenant: str) -> Iterator[Rule]:
    whose = f" of {tenant}" if limit.per else ""
    bucket = f"{limit.match}@{tenant}" if limit.per else limit.match
    for unit in AMOUNTS:
        rate = getattr(limit, unit)
        if isinstance(rate, Rate):
            window = _short(rate.window_s)
            yield Window(
                name=f"{limit.match} {rate.count} {unit}/{window}{whose}",
                bucket=f"{bucket}:{unit}:{window}",
                limit=rate.count,
                window_s=rate.window_s,
                unit=unit,
                learned=limit.estimate == "learned" and unit != "requests",
                is_of_provider=limit.per is None and limit.match != "*",
            )
        elif rate is not None:
            name = f"{limit.match} {rate} in flight{whose}"
            yield InFlight(name, f"{bucket}:in_flight", rate)


def _short(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds * 1000:g}ms"
