-- Every question is about one user's orders, newest first, and ids sort by time: the primary key
-- answers them all.
create table orders (
    user_id blob not null,
    id blob not null,
    amount integer not null check (amount > 0),
    description text not null,
    status text not null check (status in ('NEW', 'FINISHED', 'CANCELLED')),
    cancel_reason text check (cancel_reason in ('no_account', 'insufficient_funds')),
    version integer not null check (version >= 1),
    created_at integer not null,
    updated_at integer not null,
    primary key (user_id, id),
    check ((status = 'CANCELLED') = (cancel_reason is not null))
) strict, without rowid;
