"""Money: budgets over a window of time, checked and charged in the claim itself.

A budget's head row is locked by every claim that must fit into it; what was spent lies in
slots of its window. The attempts that a budget counts name their slots, and a trigger
keeps both equal: no crash and no other store comes between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from llmgine_workers.ledger import attempts
from llmgine_workers.ledger.attempts import Opening
from llmgine_workers.ledger.connection import Connection, Ledger
from llmgine_workers.ledger.records import Claim
from llmgine_workers.ledger.release import mine
from llmgine_workers.settings import LimitSettings

SLOTS = 60
"""A window's slots: what is older than a window counts for at most a sixtieth longer."""

MARKS = (50, 80, 100)
"""Percents of a budget that are told of, each once until less than the first is used."""

KEEP_S = 40 * 86400
"""Slots are forgotten after this; no window is longer than 31 days."""

WOKEN_AT_MOST = 1000

_ENTER = """
insert into budgets (budget, rule, tenant) select * from unnest($1::text[], $2::text[],
                                                                $3::text[])
on conflict do nothing returning budget
"""

# The attempts from before the rule was there: by the slots they began in.
_SEED = """
insert into spending (charge, budget, slot_at, micro)
select $1 || ' @' || slot, $1, to_timestamp(slot), sum(weight) from (
    select floor(extract(epoch from a.started_at) / $4)::bigint * $4::bigint as slot,
           weight_of(a.state, a.reserved, a.cost) as weight
    from attempts a join jobs j on j.id = a.job_id
    where a.started_at > now() - $5 * interval '1 second'
      and ($2::text is null or j.tenant = $2) and a.model like $3
) counted group by slot
on conflict (charge) do nothing
"""

_USED = """
select budget, slot_at, micro from spending
where budget = any ($1) and slot_at > now() - $2 * interval '1 second'
order by slot_at
"""

_SLOTS = """
insert into spending (charge, budget, slot_at)
select * from unnest($1::text[], $2::text[], $3::timestamptz[]) on conflict do nothing
"""

_WAKE = """
update steps set wake_at = now()
from (select job_id, path from steps
      where state = 'waiting' and reason = 'budget' and ($1::text is null or tenant = $1)
        and model like $2 and wake_at > now()
      order by job_id limit $3) as first
where steps.job_id = first.job_id and steps.path = first.path
  and steps.state = 'waiting'
"""


@dataclass(frozen=True)
class Budget:
    """At most so many micro-dollars in any window of that length (seconds)."""

    rule: str
    match: str
    tenant: str | None
    micro: int
    window_s: float
    refuses: bool

    @property
    def name(self) -> str:
        """Its key in the ledger: without the amount, which may be raised."""
        return self.rule if self.tenant is None else f"{self.rule} of {self.tenant}"

    @property
    def slot_s(self) -> int:
        """The length of its slots."""
        return max(1, round(self.window_s / SLOTS))

    @property
    def like(self) -> str:
        """The models it counts, as a pattern of SQL."""
        plain = self.match.replace("\\", "\\\\").replace("_", r"\_").replace("%", r"\%")
        return plain.replace("*", "%")

    def charge(self, at: datetime) -> tuple[str, datetime]:
        """The key and the beginning of the slot of a moment."""
        slot = int(at.timestamp()) // self.slot_s * self.slot_s
        return f"{self.name} @{slot}", datetime.fromtimestamp(slot, UTC)

    def __str__(self) -> str:
        return f"{self.name}: ${self.micro / 1e6:g}"


@dataclass(frozen=True)
class Told:
    """A budget of which that many percent are used, reservations included."""

    budget: Budget
    percent: int
    used: int


class Exhausted(Exception):
    """No room for a call: `until` the window frees it, None if it never will."""

    def __init__(self, told: Told, until: datetime | None, *, is_news: bool) -> None:
        used = f"${told.used / 1e6:g} of it are spent or reserved"
        super().__init__(f"budget {told.budget}: {used}")
        self.told = told
        self.until = until
        self.is_news = is_news


def budgets_of(
    limits: Iterable[LimitSettings], tenant: str, model: str
) -> tuple[Budget, ...]:
    """The budgets that count a tenant's call of a model, in the order of their names."""
    found = [
        Budget(
            rule=f"{limit.match} usd/{limit.usd.window_s:g}s",
            match=limit.match,
            tenant=tenant if limit.per == "tenant" else None,
            micro=limit.usd.micro,
            window_s=limit.usd.window_s,
            refuses=limit.on_exhausted == "refuse",
        )
        for limit in limits
        if limit.usd is not None and limit.matches(model)
    ]
    return tuple(sorted(found, key=lambda one: one.name))


async def claim(
    ledger: Ledger, wanted: Opening, budgets: Sequence[Budget]
) -> tuple[Claim | None, list[Told]]:
    """Row 6 within budgets; Exhausted if one has no room. Repeating finds the same."""
    async with ledger.transaction() as connection:
        found = await _room(connection, wanted, budgets)
        if not isinstance(found, Exhausted):
            (held,) = await attempts.open_all(connection, [wanted])
            await _charge(connection, held, budgets)
            return held, found
    raise found


async def next_attempt(
    ledger: Ledger, held: Claim, wanted: Opening, budgets: Sequence[Budget]
) -> tuple[Claim | None, list[Told]]:
    """A further call under the same fence, which needs room like the first."""
    async with ledger.transaction() as connection:
        found = await _room(connection, wanted, budgets)
        if not isinstance(found, Exhausted):
            again = await attempts.open_again(connection, held, wanted)
            await _charge(connection, again, budgets)
            return again, found
    raise found


async def refusing(ledger: Ledger, budgets: Sequence[Budget]) -> Budget | None:
    """A budget that refuses new jobs now: it is used up, or too small for who waits."""
    names = [one.name for one in budgets if one.refuses]
    if not names:
        return None
    async with ledger.connection() as connection:
        rows = await connection.fetch(
            "select budget, needed from budgets where budget = any ($1)", names
        )
        needed = {row["budget"]: row["needed"] or 1 for row in rows}
        for one in budgets:
            if one.name in needed:
                used = sum(micro for _, micro in await _used(connection, one))
                if used + needed[one.name] > one.micro:
                    return one
    return None


async def wake(ledger: Ledger, rules: Mapping[str, LimitSettings]) -> None:
    """Let as many steps try again as their budget has room for by now, the oldest first.

    `rules` by name, as the settings have them today: a raised amount is room.
    """
    async with ledger.transaction() as connection:
        if not await mine(connection, "budgets"):
            return
        wanted = await connection.fetch(
            "select budget, rule, tenant, needed from budgets where needed is not null "
            "order by budget for update"
        )
        for row in wanted:
            await _wake(connection, row["budget"], row["tenant"], row["needed"],
                        rules.get(row["rule"]))  # fmt: skip
        await connection.execute(
            "delete from spending where slot_at < now() - $1 * interval '1 second'",
            KEEP_S,
        )


def by_rule(limits: Iterable[LimitSettings]) -> dict[str, LimitSettings]:
    """The budgets of the settings by the name of their rule."""
    return {f"{one.match} usd/{one.usd.window_s:g}s": one for one in limits if one.usd}


async def _wake(
    connection: Connection,
    name: str,
    tenant: str | None,
    needed: int,
    limit: LimitSettings | None,
) -> None:
    if limit is None or limit.usd is None:
        count, like = WOKEN_AT_MOST, "%"
    else:
        (budget,) = budgets_of([limit], tenant or "", limit.match)
        room = budget.micro - sum(micro for _, micro in await _used(connection, budget))
        count, like = min(WOKEN_AT_MOST, room // max(1, needed)), budget.like
    if count <= 0:
        return
    done = await connection.execute(_WAKE, tenant, like, count)
    if done == "UPDATE 0":
        await connection.execute(
            "update budgets set needed = null where budget = $1", name
        )


async def _room(
    connection: Connection, wanted: Opening, budgets: Sequence[Budget]
) -> list[Told] | Exhausted:
    """Room in all of them, and what there is to tell; the job's own budget as well."""
    job, reserved = wanted.step.key.job, wanted.reserved or 0
    if wanted.step.has_budget:
        await attempts.find_room(connection, job, wanted.claim_id, reserved)
    await _lock(connection, budgets)
    if await attempts.has_attempt(connection, job, wanted.claim_id):
        return []
    told = []
    for budget in budgets:
        spent = await _used(connection, budget)
        used = sum(micro for _, micro in spent) + reserved
        if used > budget.micro:
            return await _exhausted(connection, budget, spent, reserved)
        told += await _tell(connection, budget, used)
    return told


async def _lock(connection: Connection, budgets: Sequence[Budget]) -> None:
    names = [one.name for one in budgets]
    fresh = await connection.fetch(
        _ENTER, names, [one.rule for one in budgets], [one.tenant for one in budgets]
    )
    for name in [row["budget"] for row in fresh]:
        one = next(budget for budget in budgets if budget.name == name)
        await connection.execute(
            _SEED, name, one.tenant, one.like, float(one.slot_s), one.window_s
        )
    await connection.execute(
        "select from budgets where budget = any ($1) order by budget for update", names
    )


async def _used(connection: Connection, budget: Budget) -> list[tuple[datetime, int]]:
    """What every slot holds that still touches the window, the oldest first."""
    rows = await connection.fetch(_USED, [budget.name], budget.window_s + budget.slot_s)
    return [(row["slot_at"], row["micro"]) for row in rows]


async def _exhausted(
    connection: Connection,
    budget: Budget,
    spent: Sequence[tuple[datetime, int]],
    reserved: int,
) -> Exhausted:
    used = sum(micro for _, micro in spent)
    was = await connection.fetchval(
        "select told from budgets where budget = $1", budget.name
    )
    await connection.execute(
        "update budgets set needed = least(needed, $2), told = 100 where budget = $1",
        budget.name, reserved,
    )  # fmt: skip
    until, left = None, used + reserved
    for slot_at, micro in spent:
        left -= micro
        until = slot_at + timedelta(seconds=budget.window_s + budget.slot_s)
        if left <= budget.micro:
            break
    never = reserved > budget.micro
    told = Told(budget, 100, used)
    return Exhausted(told, None if never else until, is_news=was < 100)


async def _tell(connection: Connection, budget: Budget, used: int) -> list[Told]:
    mark = max((one for one in MARKS if used * 100 >= one * budget.micro), default=0)
    changed = await connection.fetchval(
        "update budgets set told = $2 where budget = $1 and (told < $2 or $2 = 0) "
        "and told <> $2 returning told",
        budget.name, mark,
    )  # fmt: skip
    return [Told(budget, mark, used)] if changed else []


async def _charge(
    connection: Connection, held: Claim | None, budgets: Sequence[Budget]
) -> None:
    if held is None:
        return
    at = await connection.fetchval("select now()")
    charges = [one.charge(at) for one in budgets]
    keys = [key for key, _ in charges]
    await connection.execute(
        _SLOTS, keys, [one.name for one in budgets], [slot_at for _, slot_at in charges]
    )
    await connection.execute(
        "update attempts set charges = $4 "
        "where job_id = $1 and path = $2 and n = $3 and charges is null",
        held.key.job, held.key.path, held.n, keys,
    )  # fmt: skip
