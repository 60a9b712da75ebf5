-- The models a step may go to, and those it has given up on.

alter table steps
    add column models   text[] not null default '{}',
    add column given_up text[] not null default '{}';
comment on column steps.models is 'provider/model in order of preference';
comment on column steps.given_up is 'models that failed it for good';
