-- A step may ask for vectors.
alter table steps drop constraint steps_kind_check;
alter table steps add constraint steps_kind_check check (kind in
    ('llm', 'embed', 'tool', 'parallel', 'map', 'branch', 'loop', 'chain', 'wait'));
