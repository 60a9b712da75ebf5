-- Fair turns between tenants, and pools that a person paused.

alter table steps
    add column tokens_in  integer not null default 1,
    add column tokens_out integer not null default 0;
comment on column steps.tokens_in is 'at most; with tokens_out what it weighs in its turn';

drop index steps_held;
create index steps_held on steps (pool, class, tenant, job_id)
    where state = 'queued' and released_at is null;

alter table pools
    add column turns         text[] not null default '{"","",""}',
    add column published     integer not null default 0,
    add column taken_per_s   double precision not null default 0,
    add column paused_at     timestamptz,
    add column paused_reason text;
comment on column pools.turns is 'per class the tenant that had the last turn';

create table deficits (
    pool    text not null,
    class   smallint not null,
    tenant  text not null,
    tokens  double precision not null,
    primary key (pool, class, tenant)
);
comment on table deficits is 'what is left of turns; without a row: nothing';
