-- Letters found by what they say, replays as actions that outlive whoever asked, and
-- raw messages that become one letter each, however often they are met.

alter table letters add column code text generated always as (error ->> 'code') stored;
create index letters_open_groups on letters (fingerprint, created_at)
    where state = 'open';
create index letters_of_group on letters (fingerprint, id);
create index letters_of_task on letters (task_id);

create table raw_deliveries (
    delivery bytea primary key,
    letter   uuid not null
);
comment on table raw_deliveries is
    'raw messages that have their letter and may be met again: forgotten once they are not';

create table replays (
    id           uuid not null primary key,
    state        text not null default 'running'
                 check (state in ('running', 'finished', 'stopped', 'aborted')),
    reason       text,
    tenant       text,
    asked        jsonb not null,
    edit         jsonb,
    rate         double precision not null,
    canary       integer not null,
    stop_if_fail double precision,
    total        integer not null,
    calls        integer,
    estimated    bigint,
    asked_by     text not null,
    created_at   timestamptz not null default now(),
    paced_at     timestamptz not null default now(),
    finished_at  timestamptz
) partition by range (id);
comment on column replays.paced_at is 'up to here the rate has been used';
comment on column replays.estimated is 'micro-dollars, null if unknown';
create index replays_running on replays (id) where state = 'running';

create table replay_letters (
    replay  uuid not null,
    letter  uuid not null,
    n       integer not null,
    job_id  uuid,
    run     integer,
    state   text not null default 'pending' check (state in
            ('pending', 'replayed', 'succeeded', 'failed', 'cancelled', 'refused')),
    refused text,
    primary key (replay, letter)
) partition by range (replay);
comment on column replay_letters.run is 'which run of the job the replay began';
create index replay_letters_pending on replay_letters (replay, n)
    where state = 'pending';
create index replay_letters_running on replay_letters (replay, n)
    where state = 'replayed';
