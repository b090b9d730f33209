-- Every question is about one user's orders, newest first, and ids sort by time: the primary key
-- answers them all. Settling changes a row once, in place: no index has a column that changes, and
-- the free space keeps the new version on the page (HOT).
create table orders (
    user_id uuid not null,
    id uuid not null,
    amount bigint not null check (amount > 0),
    description text not null,
    status text not null check (status in ('NEW', 'FINISHED', 'CANCELLED')),
    cancel_reason text check (cancel_reason in ('no_account', 'insufficient_funds')),
    version bigint not null check (version >= 1),
    created_at bigint not null,
    updated_at bigint not null,
    primary key (user_id, id),
    check ((status = 'CANCELLED') = (cancel_reason is not null))
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
