"""Budgets in dollars: never overshot, by however many claims at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from llmgine_workers import clock
from llmgine_workers.ledger import attempts, budgets, steps
from llmgine_workers.ledger.budgets import Budget, Exhausted, Told, budgets_of
from llmgine_workers.ledger.records import Billed, Claim, StepKey
from llmgine_workers.llm import Usage
from llmgine_workers.settings import LimitSettings
from tests.ledger.rows import Place

pytestmark = pytest.mark.integration

MODEL = "openai/gpt-5-mini"


def limit(usd: str, match: str = "*", **more: str) -> LimitSettings:
    return LimitSettings.model_validate(
        {"match": match, "usd": usd, "per": "tenant", **more}
    )


class Purse:
    """A tenant of its own under one rule, and a worker that claims for it."""

    def __init__(self, place: Place, worker: UUID, usd: str) -> None:
        self.place, self.worker = place, worker
        self.tenant = f"purse-{uuid4().hex[:8]}"
        self.limit = limit(usd)

    @property
    def budget(self) -> Budget:
        (one,) = budgets_of([self.limit], self.tenant, MODEL)
        return one

    async def steps(self, count: int) -> list[StepKey]:
        return [
            key
            for _ in range(count)
            for key in await self.place.submit(tenant=self.tenant)
        ]

    async def claim(
        self, key: StepKey, reserved: int, claim_id: UUID | None = None
    ) -> tuple[Claim | None, list[Told]]:
        (hinted,) = await steps.read(self.place.ledger, [key])
        assert hinted is not None
        fresh = claim_id or attempts.new_claim_id()
        wanted = attempts.Opening(hinted, self.worker, fresh, False, reserved)
        return await budgets.claim(self.place.ledger, wanted, (self.budget,))

    async def claimed(self, key: StepKey, reserved: int) -> Claim:
        held, _ = await self.claim(key, reserved)
        assert held is not None
        return held

    async def settle(self, held: Claim, cost: int) -> None:
        billed = Billed(Usage(calls=1), cost=cost)
        assert await self.place.settle(held, billed=billed)

    async def counted(self) -> int:
        rows = await self.place.rows(
            "select coalesce(sum(micro), 0)::bigint as micro from spending "
            "where budget = $1",
            self.budget.name,
        )
        return int(rows[0]["micro"])


@pytest.fixture
async def purse(place: Place) -> Purse:
    """A dollar a day."""
    return Purse(place, await place.worker(slots=100), "1/1d")


async def test_claims_at_once_never_reserve_more_than_there_is(purse: Purse) -> None:
    keys = await purse.steps(30)
    found = await asyncio.gather(
        *(purse.claim(key, 95_000) for key in keys), return_exceptions=True
    )
    held = [one for one in found if not isinstance(one, BaseException)]
    refused = [one for one in found if isinstance(one, Exhausted)]
    assert (len(held), len(refused)) == (10, 20)
    assert await purse.counted() == 950_000


async def test_what_a_call_did_not_use_is_room_again(purse: Purse) -> None:
    first, second = await purse.steps(2)
    held = await purse.claimed(first, 900_000)
    with pytest.raises(Exhausted):
        await purse.claim(second, 200_000)
    await purse.settle(held, 1_000)
    assert await purse.counted() == 1_000
    await purse.claimed(second, 200_000)
    assert await purse.counted() == 201_000


async def test_what_nobody_knows_of_stays_spent(purse: Purse) -> None:
    """A worker that died in its call may have been billed for it."""
    (key,) = await purse.steps(1)
    await purse.claimed(key, 700_000)
    await purse.place.die(purse.worker)
    assert len(await purse.place.take_back(purse.worker)) == 1
    assert await purse.counted() == 700_000


async def test_a_claim_whose_answer_was_lost_is_charged_once(purse: Purse) -> None:
    (key,) = await purse.steps(1)
    claim_id = attempts.new_claim_id()
    first, _ = await purse.claim(key, 600_000, claim_id)
    again, _ = await purse.claim(key, 600_000, claim_id)
    assert again == first
    assert await purse.counted() == 600_000


async def test_a_refusal_says_when_the_window_has_room(purse: Purse) -> None:
    first, second = await purse.steps(2)
    await purse.settle(await purse.claimed(first, 900_000), 900_000)
    with pytest.raises(Exhausted, match=r"\$0\.9 of it are spent or reserved") as caught:
        await purse.claim(second, 200_000)
    until = caught.value.until
    assert until is not None
    day = timedelta(days=1)
    assert day - timedelta(minutes=25) < until - clock.now() < day + timedelta(minutes=25)
    with pytest.raises(Exhausted) as never:
        await purse.claim(second, 1_200_000)
    assert never.value.until is None


async def test_what_is_older_than_the_window_does_not_count(purse: Purse) -> None:
    first, second = await purse.steps(2)
    await purse.settle(await purse.claimed(first, 900_000), 900_000)
    await purse.place.rows(
        "update spending set slot_at = slot_at - interval '25 hours' where budget = $1",
        purse.budget.name,
    )
    await purse.claimed(second, 900_000)


async def test_a_rule_that_is_new_counts_what_was_spent_before_it(purse: Purse) -> None:
    first, second = await purse.steps(2)
    await purse.settle(await purse.place.claimed(first, purse.worker), 600_000)
    with pytest.raises(Exhausted):
        await purse.claim(second, 500_000)
    await purse.claimed(second, 300_000)


async def test_half_of_it_four_fifths_and_all_of_it_are_told_once(purse: Purse) -> None:
    keys = await purse.steps(8)
    told = [(await purse.claim(key, 140_000))[1] for key in keys[:7]]
    assert [[one.percent for one in some] for some in told] == [
        [], [], [], [50], [], [80], [],
    ]  # fmt: skip
    news = []
    for _ in range(2):
        with pytest.raises(Exhausted) as caught:
            await purse.claim(keys[7], 140_000)
        news.append(caught.value.is_news)
    assert news == [True, False]


async def test_who_waits_is_woken_when_there_is_room_and_no_more_than_fit(
    purse: Purse,
) -> None:
    keys = await purse.steps(5)
    held = await purse.claimed(keys[0], 900_000)
    for key in keys[1:]:
        with pytest.raises(Exhausted):
            await purse.claim(key, 300_000)
        await steps.wait(purse.place.ledger, key, 3600, "budget", "used up")

    async def due() -> int:
        await budgets.wake(purse.place.ledger, budgets.by_rule([purse.limit]))
        rows = await purse.place.rows(
            "select count(*) as n from steps where tenant = $1 and state = 'waiting' "
            "and wake_at <= now()",
            purse.tenant,
        )
        return int(rows[0]["n"])

    assert await due() == 0
    await purse.settle(held, 300_000)
    assert await due() == 2
    purse.limit = limit("2/1d")
    assert await due() == 4, "a raised budget is room"


async def test_a_budget_that_refuses_says_so_at_submit(purse: Purse) -> None:
    (key,) = await purse.steps(1)
    purse.limit = limit("1/1d", on_exhausted="refuse")
    refusing = (purse.budget,)
    assert await budgets.refusing(purse.place.ledger, refusing) is None
    await purse.settle(await purse.claimed(key, 1_000_000), 1_000_000)
    assert await budgets.refusing(purse.place.ledger, refusing) == purse.budget


def test_only_what_matches_counts_a_call() -> None:
    rules = [
        limit("1/1h"), limit("2/1h", "openai/*"), limit("3/1h", MODEL),
        limit("4/1h", "anthropic/*"), limit("5/1h", "openai/gpt-5"),
    ]  # fmt: skip
    found = budgets_of(rules, "acme", MODEL)
    assert sorted(one.micro for one in found) == [1_000_000, 2_000_000, 3_000_000]
    assert {one.tenant for one in found} == {"acme"}
