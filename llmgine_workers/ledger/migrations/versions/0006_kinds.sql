-- A condition may pass over a step of any kind.
alter table steps drop constraint steps_kind_check;
alter table steps add constraint steps_kind_check
    check (kind in ('llm', 'tool', 'parallel', 'map', 'branch', 'loop', 'chain', 'wait'));
