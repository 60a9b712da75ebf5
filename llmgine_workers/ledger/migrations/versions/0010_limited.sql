-- Pools whose steps wait for a limit, found however many wait for something else.

create index steps_limited on steps (pool) where state = 'waiting' and reason = 'limit';
comment on index steps_limited is 'whether a pool has steps that wait for a limit';
