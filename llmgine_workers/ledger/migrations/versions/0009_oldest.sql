-- The oldest job that waits in each pool.

alter table pools add column oldest uuid;
comment on column pools.oldest is 'of the jobs with a queued step, as last counted; its '
    'id tells its time';
