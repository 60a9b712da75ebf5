-- Budgets in dollars: what was spent and reserved, in slots of their windows.

create table budgets (
    budget text primary key,
    rule   text not null,
    tenant text,
    needed bigint,
    told   smallint not null default 0
);
comment on table budgets is 'locked by each claim that must fit; amounts are settings';
comment on column budgets.needed is 'the least that was refused; null: nobody waits';
create index budgets_wanted on budgets (rule) where needed is not null;

create table spending (
    charge  text primary key,
    budget  text not null,
    slot_at timestamptz not null,
    micro   bigint not null default 0
);
comment on table spending is 'costs of a slot, with the bounds of calls that are open';
create index spending_of_budget on spending (budget, slot_at);

alter table attempts add column charges text[];
comment on column attempts.charges is 'the rows of spending that count it';

create index steps_without_budget on steps (tenant, job_id)
    where state = 'waiting' and reason = 'budget';

create function weight_of(state text, reserved bigint, cost bigint) returns bigint
language sql immutable as $$
    select case when state in ('started', 'ambiguous') then coalesce(reserved, 0)
                else coalesce(cost, reserved, 0) end
$$;

-- Whoever closes an attempt, in whichever statement: the counters never miss it.
create function charge_spending() returns trigger language plpgsql as $$
declare
    more bigint := weight_of(new.state, new.reserved, new.cost)
        - case when old.charges is null then 0
               else weight_of(old.state, old.reserved, old.cost) end;
begin
    if more <> 0 then
        update spending set micro = micro + more where charge = any (new.charges);
    end if;
    return null;
end
$$;
create trigger charge_spending after update of state, cost, charges on attempts
    for each row when (new.charges is not null) execute function charge_spending();
