-- What is to be told to whom when a job ends, written in the transaction that ends it.

alter table jobs add column webhook text;
comment on column jobs.webhook is 'an address that is told of the end';

create table webhooks (
    job_id      uuid not null,
    run         integer not null,
    tenant      text not null,
    url         text not null,
    state       text not null default 'pending'
                check (state in ('pending', 'delivered', 'failed')),
    tries       integer not null default 0,
    next_at     timestamptz not null default now(),
    give_up_at  timestamptz not null default now() + interval '24 hours',
    log         jsonb not null default '[]',
    created_at  timestamptz not null default now(),
    finished_at timestamptz,
    primary key (job_id, run)
) partition by range (job_id);
comment on column webhooks.log is 'the newest tries: at, status, error, ms';
create index webhooks_due on webhooks (next_at) where state = 'pending';

-- Whoever ends a job, in whichever statement: what is owed is never forgotten.
create function owe_webhook() returns trigger language plpgsql as $$
begin
    if new.state <> 'active' and (tg_op = 'INSERT' or old.state = 'active') then
        insert into webhooks (job_id, run, tenant, url)
        values (new.id, new.run, new.tenant, new.webhook) on conflict do nothing;
    end if;
    return null;
end
$$;
create trigger owe_webhook after insert or update of state on jobs
    for each row when (new.webhook is not null) execute function owe_webhook();
