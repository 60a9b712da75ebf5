-- A filter that fits few letters, or none, must not read all of them.

create index letters_by_tenant on letters (tenant, id);
create index letters_by_chain on letters (chain, id);
create index letters_by_step on letters (step, id);
create index letters_by_pool on letters (pool, id);
create index letters_by_code on letters (code, id);
