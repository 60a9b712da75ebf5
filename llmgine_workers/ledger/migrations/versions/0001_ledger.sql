-- The ledger: the truth and the queue. Every table that grows with the work is cut
-- into day partitions by its leading UUIDv7, so retention drops whole partitions.

create table jobs (
    id            uuid not null primary key,
    tenant        text not null,
    state         text not null default 'active'
                  check (state in ('active', 'succeeded', 'failed', 'cancelled')),
    ending        text check (ending in ('failed', 'cancelled')),
    failure       jsonb,
    chain_version text not null,
    chain_name    text not null,
    class         smallint not null,
    run           integer not null default 0,
    stream        boolean not null,
    simulated     boolean not null,
    max_attempts  smallint not null,
    timeout_s     double precision not null,
    max_cost      bigint,
    metadata      jsonb not null,
    steps_total   integer not null,
    created_at    timestamptz not null default now(),
    finished_at   timestamptz,
    expires_at    timestamptz not null
) partition by range (id);
comment on column jobs.ending is 'an end decided while calls are still running';
comment on column jobs.max_cost is 'micro-dollars';
create index jobs_expiring on jobs (expires_at) where state = 'active';
create index jobs_ending on jobs (id) where ending is not null;
create index jobs_of_tenant on jobs (tenant, id);

create table steps (
    job_id        uuid not null,
    path          text not null,
    kind          text not null check (kind in ('llm', 'tool')),
    pool          text not null,
    tenant        text not null,
    class         smallint not null,
    state         text not null check (state in ('queued', 'running', 'waiting',
                  'succeeded', 'failed', 'skipped', 'cancelled')),
    released_at   timestamptz,
    wake_at       timestamptz,
    reason        text,
    detail        text,
    waiting_since timestamptz,
    fence         integer not null default 0,
    worker        uuid,
    claim_id      uuid,
    call_deadline timestamptz,
    calls         integer not null default 0,
    tries         smallint not null default 0,
    crashes       smallint not null default 0,
    max_attempts  smallint not null,
    timeout_s     double precision not null,
    model         text,
    why           text,
    finish_reason text,
    failure       jsonb,
    created_at    timestamptz not null default now(),
    started_at    timestamptz,
    finished_at   timestamptz,
    primary key (job_id, path),
    check (state <> 'waiting' or wake_at is not null)
) partition by range (job_id);
comment on column steps.released_at is 'null while queued: held in the ledger';
comment on column steps.calls is 'physical calls so far; tries counts only failures';
create index steps_held on steps (pool, class, job_id)
    where state = 'queued' and released_at is null;
create index steps_window on steps (pool, released_at)
    where state = 'queued' and released_at is not null;
create index steps_running on steps (worker) where state = 'running';
create index steps_waiting on steps (wake_at) where state = 'waiting';

create table payloads (
    job_id uuid not null,
    path   text not null,
    kind   text not null check (kind in ('inputs', 'request', 'output')),
    body   text not null,
    primary key (job_id, path, kind)
) partition by range (job_id);
comment on table payloads is 'written once; path is empty for the job itself';

create table attempts (
    job_id         uuid not null,
    path           text not null,
    n              integer not null,
    id             uuid not null,
    run            integer not null,
    fence          integer not null,
    worker         uuid not null,
    state          text not null default 'started' check (state in
                   ('started', 'succeeded', 'failed', 'cancelled', 'ambiguous')),
    model          text,
    simulated      boolean not null,
    status         smallint,
    request_id     text,
    failure        jsonb,
    input_tokens   bigint not null default 0,
    cached_input_tokens bigint not null default 0,
    output_tokens  bigint not null default 0,
    reasoning_tokens bigint not null default 0,
    reserved       bigint,
    cost           bigint,
    price_version  text,
    started_at     timestamptz not null default now(),
    first_token_at timestamptz,
    finished_at    timestamptz,
    primary key (job_id, path, n)
) partition by range (job_id);
comment on column attempts.cost is 'micro-dollars; null while unknown';
comment on column attempts.reserved is 'upper bound in micro-dollars before the call';

create table letters (
    id          uuid not null primary key,
    job_id      uuid,
    run         integer not null default 0,
    tenant      text,
    chain       text,
    step        text,
    pool        text,
    error       jsonb not null,
    fingerprint text not null,
    cost        bigint,
    task_id     uuid,
    raw         bytea,
    state       text not null default 'open'
                check (state in ('open', 'resolved', 'ignored')),
    resolution  text check (resolution in ('replayed', 'discarded')),
    created_at  timestamptz not null default now(),
    resolved_at timestamptz,
    resolved_by text,
    mirrored_at timestamptz
) partition by range (id);
create index letters_of_job on letters (job_id, run);
create index letters_open on letters (id) where state = 'open';
create index letters_unmirrored on letters (id)
    where state = 'open' and mirrored_at is null;

create table workers (
    id         uuid primary key,
    pool       text not null,
    host       text not null,
    pid        integer not null,
    slots      integer not null,
    beat_no    bigint not null default 0,
    started_at timestamptz not null default now(),
    stopped_at timestamptz,
    dead_at    timestamptz
);
create index workers_live on workers (pool)
    where dead_at is null and stopped_at is null;

create table pools (
    pool       text primary key,
    live       integer not null default 0,
    slots      integer not null default 0,
    credit     integer not null default 0,
    backlogged boolean not null default false,
    ticked_at  timestamptz not null default now()
);
comment on table pools is 'what the scheduler saw last; submits read it cached';

create table tenant_load (
    tenant text primary key,
    queued bigint not null
);
comment on table tenant_load is 'unfinished steps, counted by the scheduler each second';

create table mirror (
    only_row       boolean primary key default true check (only_row),
    dirty          boolean not null default true,
    rotating_until timestamptz
);
insert into mirror default values;

create table chains (
    version   text primary key,
    name      text not null,
    body      text not null,
    pushed_at timestamptz not null default now()
);
create table chain_heads (
    name      text primary key,
    version   text not null references chains,
    pushed_at timestamptz not null default now()
);

create table idempotency (
    tenant     text not null,
    key        text not null,
    body_hash  bytea not null,
    job_id     uuid not null,
    created_at timestamptz not null default now(),
    primary key (tenant, key)
);

create table api_keys (
    id         text primary key,
    tenant     text not null,
    scopes     text[] not null,
    hash       bytea not null,
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
