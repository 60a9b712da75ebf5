"""Turns between tenants: by weight, in tokens, and whatever anybody else has posted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from uuid import uuid4

import pytest

from llmgine_workers import clock
from llmgine_workers.ledger import release, submits
from llmgine_workers.ledger.fairness import Counted, Head, Queue, Turns, take_turns
from llmgine_workers.ledger.records import CLASSES
from tests.ledger.rows import Place

INTERACTIVE, NORMAL, BATCH = range(len(CLASSES))


def heads(tenant: str, *tokens: int, priority: int = NORMAL) -> list[Head]:
    return [Head(uuid4(), str(n), tenant, priority, None, t, 0) for n, t in
            enumerate(tokens)]  # fmt: skip


def queue(tenant: str, *tokens: int, weight: float = 1, left: float = 0) -> Queue:
    return Queue(tenant, weight, left, heads(tenant, *tokens), is_all=True)


def turns(queues: Sequence[Queue], credit: int) -> Turns:
    return take_turns(queues, credit, lambda _: True)


class Site:
    """Backlogs of tenants that are served for as long as somebody asks."""

    def __init__(self, **queues: tuple[float, list[int]]) -> None:
        self.waiting = {name: heads(name, *sizes) for name, (_, sizes) in queues.items()}
        self.weights = {name: weight for name, (weight, _) in queues.items()}
        self.left: dict[str, float] = defaultdict(float)
        self.last = ""
        self.served: Counter[str] = Counter()

    def tick(self, credit: int, look: int = 99) -> list[Head]:
        names = sorted(name for name, waiting in self.waiting.items() if waiting)
        ring = [n for n in names if n > self.last] + [n for n in names if n <= self.last]
        found = turns(
            [
                Queue(n, self.weights[n], self.left[n], self.waiting[n][:look],
                      len(self.waiting[n]) <= look)
                for n in ring
            ],
            credit,
        )  # fmt: skip
        self.left.update(found.left)
        self.last = found.last or self.last
        for head in found.chosen:
            self.waiting[head.tenant].remove(head)
            self.served[head.tenant] += head.tokens
        return list(found.chosen)


def test_a_tenant_alone_gets_everything_in_its_order() -> None:
    only = queue("a", 5, 900, 3)
    assert turns([only], 10).chosen == tuple(only.heads)


def test_one_step_each_while_they_weigh_the_same() -> None:
    found = turns([queue("a", *[10] * 50), queue("b", 10, 10)], 5)
    assert [one.tenant for one in found.chosen] == ["a", "b", "a", "b", "a"]


def test_a_share_is_counted_in_tokens_and_not_in_steps() -> None:
    site = Site(large=(1, [1000] * 40), small=(1, [100] * 400))
    for _ in range(11):
        site.tick(10)
    assert site.served["small"] == pytest.approx(site.served["large"], abs=1000)


def test_a_weight_is_a_share() -> None:
    site = Site(a=(1, [70] * 900), b=(3, [110] * 900), c=(0.5, [90] * 900))
    for _ in range(60):
        site.tick(9)
    one = site.served["a"]
    assert site.served["b"] == pytest.approx(3 * one, rel=0.06)
    assert site.served["c"] == pytest.approx(one / 2, rel=0.06)


@pytest.mark.parametrize("credit", [1, 2, 7, 50])
@pytest.mark.parametrize("look", [1, 3, 99])
def test_shares_are_equal_however_little_a_tick_may_send(credit: int, look: int) -> None:
    site = Site(**{name: (1, [30, 500, 80, 10] * 250) for name in "abcd"})
    for _ in range(max(1, 600 // credit)):
        site.tick(credit, look)
    assert max(site.served.values()) - min(site.served.values()) <= 3 * 500


def test_who_was_away_does_not_come_back_with_a_claim_to_all_of_it() -> None:
    site = Site(a=(1, [10] * 2000), b=(1, [10] * 5))
    for _ in range(50):
        site.tick(10)
    site.waiting["b"] = heads("b", *[10] * 500)
    before = site.served["b"]
    for _ in range(10):
        site.tick(10)
    assert site.served["b"] - before == pytest.approx(500, abs=20)


def test_who_is_refused_by_a_limit_saves_nothing_up() -> None:
    left = 0.0
    for _ in range(100):
        found = take_turns(
            [queue("a", *[10] * 9), queue("b", *[10] * 9, left=left)],
            5,
            lambda head: head.tenant == "a",
        )
        assert {one.tenant for one in found.chosen} == {"a"}
        left = found.left["b"]
    assert left <= 10


def test_an_empty_queue_keeps_nothing() -> None:
    assert turns([queue("a", 1, 1), queue("b", 900, 900)], 4).left == {"a": 0, "b": 0}


def test_nobody_and_nothing() -> None:
    assert turns([], 5) == Turns((), {}, None)


def test_batch_leaves_what_is_kept_from_it() -> None:
    gate = Counted(4, batch=1)
    batch, normal = heads("a", 1, 1, priority=BATCH), heads("a", 1, 1, 1, 1)
    assert [gate.take(one) for one in batch] == [True, False]
    assert [gate.take(one) for one in normal] == [True, True, True, False]


@pytest.fixture
async def backlog(place: Place) -> Place:
    """A tenant with 300 jobs, and one with 5 that came later."""
    now = clock.now().timestamp()
    for tenant, count, age in (("a", 300, 3600), ("b", 5, 60)):
        new = [
            place.job(place.step(tokens_in=100), id=clock.uuid7(now - age + n / 10),
                      tenant=f"{tenant}-{place.pool}")
            for n in range(count)
        ]  # fmt: skip
        await submits.insert_each(
            place.ledger, [submits.Submit(job, [False]) for job in new]
        )
    return place


async def tenants(place: Place, credit: int, **weights: float) -> str:
    """Who was released, a letter each."""
    named = {f"{name}-{place.pool}": weight for name, weight in weights.items()}
    released = await release.tick(
        place.ledger, place.pool, 2000, credit, Counted(credit), named
    )
    assert released is not None
    whose = [(await place.step_row(one.key))["tenant"][0] for one in released]
    for one in released:
        await place.rows(
            "update steps set state = 'cancelled' where job_id = $1", one.key.job
        )
    return "".join(whose)


@pytest.mark.integration
async def test_a_flood_of_one_tenant_is_no_queue_for_another(backlog: Place) -> None:
    assert await tenants(backlog, 6) == "ababab"
    assert await tenants(backlog, 6) == "abab" + "aa"


@pytest.mark.integration
async def test_turns_go_on_from_tick_to_tick(backlog: Place) -> None:
    """Whichever scheduler has the next one: nothing of it is in memory."""
    assert "".join([await tenants(backlog, 1) for _ in range(8)]) == "abababab"


@pytest.mark.integration
async def test_a_weight_of_the_settings_counts(backlog: Place) -> None:
    assert await tenants(backlog, 8, a=3.0) == "aaabaaab"


@pytest.mark.integration
async def test_what_is_published_counts_against_the_gate(backlog: Place) -> None:
    first = await release.tick(backlog.ledger, backlog.pool, 2000, 3)
    assert first is not None
    assert len(first) == 3
    again = await release.tick(backlog.ledger, backlog.pool, 2000, 5, Counted(5))
    assert again is not None
    assert len(again) == 2


@pytest.mark.integration
async def test_what_is_published_of_pools_beside_counts_against_the_gate(
    backlog: Place,
) -> None:
    other = f"other-{backlog.pool}"
    await backlog.rows(
        "update steps set pool = $2 where (job_id, path) in (select job_id, path "
        "from steps where pool = $1 order by job_id limit 3)",
        backlog.pool, other,
    )  # fmt: skip
    assert len(await release.tick(backlog.ledger, other, 2000, 3) or []) == 3
    gate = Counted(5)
    gate.beside = [other]
    assert len(await release.tick(backlog.ledger, backlog.pool, 2000, 5, gate) or []) == 2
