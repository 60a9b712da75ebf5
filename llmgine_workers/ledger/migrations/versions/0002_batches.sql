-- Jobs that were accepted together, and each pool's steps as the scheduler counts them.

create table batches (
    id         uuid not null primary key,
    tenant     text not null,
    total      integer not null,
    created_at timestamptz not null default now()
) partition by range (id);

alter table jobs add column batch uuid;
create index jobs_of_batch on jobs (batch, id) where batch is not null;

alter table idempotency alter column job_id drop not null;
alter table idempotency add column batch uuid;
alter table idempotency add check (num_nonnulls(job_id, batch) = 1);
comment on table idempotency is 'a key belongs to one job, or to one batch';

alter table pools
    add column queued     bigint not null default 0,
    add column running    bigint not null default 0,
    add column waiting    bigint not null default 0,
    add column counted_at timestamptz;
comment on column pools.counted_at is 'when its unfinished steps were last counted';
