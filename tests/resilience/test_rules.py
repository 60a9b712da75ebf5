"""Which limits a call falls under, and what it asks of each."""

from __future__ import annotations

import pytest

from llmgine_workers.ephemeral.rules import InFlight, Window
from llmgine_workers.ephemeral.windows import Left
from llmgine_workers.llm import Quota
from llmgine_workers.resilience.rooms import Rooms
from llmgine_workers.resilience.rules import Demand, Rules
from llmgine_workers.settings import LimitSettings


def rules(*limits: dict[str, object]) -> Rules:
    return Rules(LimitSettings.model_validate(limit) for limit in limits)


def demand(
    model: str = "openai/gpt-5-mini", tenant: str = "acme", **tokens: int
) -> Demand:
    return Demand(model, tenant, **tokens)  # type: ignore[arg-type]


MANY = rules(
    {"match": "*", "in_flight": 500},
    {"match": "openai/*", "requests": "600/1m", "tokens": "100000/1m"},
    {"match": "openai/gpt-5", "output_tokens": "50/1500ms", "estimate": "learned"},
    {"match": "*", "per": "tenant", "input_tokens": "9000/1h"},
)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (
            "anthropic/claude",
            ["* 500 in flight", "* 9000 input_tokens/1h of acme"],
        ),
        (
            "openai/gpt-5-mini",
            [
                "* 500 in flight",
                "openai/* 600 requests/1m",
                "openai/* 100000 tokens/1m",
                "* 9000 input_tokens/1h of acme",
            ],
        ),
        (
            "openai/gpt-5",
            [
                "* 500 in flight",
                "openai/* 600 requests/1m",
                "openai/* 100000 tokens/1m",
                "openai/gpt-5 50 output_tokens/1500ms",
                "* 9000 input_tokens/1h of acme",
            ],
        ),
    ],
)
def test_a_call_falls_under_every_limit_that_matches(
    model: str, names: list[str]
) -> None:
    assert [rule.name for rule in MANY.of(model, "acme")] == names


def test_every_rule_counts_in_a_place_of_its_own_that_does_not_name_its_limit() -> None:
    acme, other = MANY.of("openai/gpt-5", "acme"), MANY.of("openai/gpt-5", "other")
    assert len({rule.bucket for rule in (*acme, *other)}) == 6  # a tenant's own is one
    raised = rules({"match": "openai/*", "tokens": "200000/1m"}).of("openai/x", "acme")
    assert raised[0].bucket in {rule.bucket for rule in acme}


def test_it_asks_each_for_what_it_counts() -> None:
    charges = MANY.charges(demand("openai/gpt-5", input_tokens=700, output_tokens=40))
    assert [charge.amount for charge in charges] == [1, 1, 740, 40, 700]
    kinds = [type(charge.rule) for charge in charges]
    assert kinds == [InFlight, Window, Window, Window, Window]
    assert [getattr(c.rule, "learned", False) for c in charges] == [
        False, False, False, True, False,
    ]  # fmt: skip


def test_a_call_that_no_waiting_helps_is_told_with_both_numbers() -> None:
    assert MANY.never_fits(demand(input_tokens=9000, output_tokens=91_000)) is None
    found = MANY.never_fits(demand(input_tokens=9000, output_tokens=91_001))
    assert found == (
        "the call may use 100001 tokens, "
        "and openai/* 100000 tokens/1m never admits more than 100000",
        100_000,
    )


def test_only_a_limit_on_output_needs_a_bound_of_it() -> None:
    assert MANY.bounds_output("openai/gpt-5-mini")
    assert not MANY.bounds_output("anthropic/claude")


def test_a_provider_is_believed_about_its_own_limits_of_a_minute() -> None:
    said = Quota(requests=5, tokens=900, output_tokens=3)
    told = MANY.told(MANY.of("openai/gpt-5", "acme"), said)
    assert {rule.name: left for rule, left in told.items()} == {
        "openai/* 600 requests/1m": 5,
        "openai/* 100000 tokens/1m": 900,
    }


class TestRoomToRelease:
    def rooms(self, **shut: float) -> Rooms:
        every = MANY.of_provider("openai", ["acme", "other"])
        assert len(every) == 6
        left = {rule: Left(rule.limit) for rule in every}
        return Rooms(MANY, left, dict(shut))

    def test_what_is_taken_is_gone_for_the_next(self) -> None:
        rooms = self.rooms()
        large = demand(input_tokens=4000, output_tokens=10)
        assert [rooms.take(large) for _ in range(3)] == [True, True, False]
        assert rooms.take(demand(input_tokens=1000))
        assert rooms.take(demand(tenant="other", input_tokens=9000))

    def test_what_is_refused_takes_nothing(self) -> None:
        rooms = self.rooms()
        assert rooms.take(demand(input_tokens=8600))
        assert not rooms.take(demand(input_tokens=401))
        assert rooms.take(demand(input_tokens=400))

    def test_what_never_fits_goes_on_to_fail_by_name(self) -> None:
        assert self.rooms().has_to_ask(demand(input_tokens=9001))

    def test_some_leave_a_share_of_every_limit_unless_they_are_too_large_to(self) -> None:
        rooms = self.rooms()
        half = demand(input_tokens=4500)
        assert rooms.take(half, leave=0.25)
        assert not rooms.take(half, leave=0.25)
        assert rooms.take(half)
        assert self.rooms().take(demand(input_tokens=8000), leave=0.25)

    def test_what_is_learned_later_leaves_what_was_taken(self) -> None:
        rooms = self.rooms()
        rooms.take(demand(input_tokens=9000))
        rooms.learn(self.rooms())
        assert not rooms.take(demand(input_tokens=1))

    def test_one_large_call_without_room_goes_to_claim_the_next(self) -> None:
        rooms = self.rooms()
        for rule in rooms.left:
            if isinstance(rule, Window) and rule.unit == "tokens":
                rooms.left[rule] = Left(100)
        large = [Demand("openai/gpt-5-mini", "acme", 6000, step=s) for s in "ab"]
        assert [rooms.take(one) for one in large] == [False, False]
        assert [rooms.has_to_ask(one) for one in large] == [True, False]
        small = demand(input_tokens=101)
        assert not rooms.take(small)
        assert not rooms.has_to_ask(small)

    def test_claimed_room_is_for_its_step(self) -> None:
        rooms = self.rooms()
        for rule in rooms.left:
            if isinstance(rule, Window) and rule.unit == "tokens":
                rooms.left[rule] = Left(6000, claim=("1-large", 5500))
        assert not rooms.take(demand(input_tokens=600))
        assert rooms.take(demand(input_tokens=400))
        assert rooms.take(Demand("openai/gpt-5-mini", "other", 5500, step="1-large"))

    def test_an_open_breaker_lets_nothing_and_a_half_open_one_its_probe(self) -> None:
        rooms = self.rooms(**{"openai/gpt-5-mini": 3.0, "openai/gpt-5": 0.0})
        assert not rooms.take(demand())
        assert [rooms.take(demand("openai/gpt-5")) for _ in range(2)] == [True, False]
        assert rooms.take(demand("openai/another"))

    def test_a_paused_provider_has_room_for_nothing(self) -> None:
        rooms = self.rooms()
        rooms.is_shut = True
        assert not rooms.take(demand())
