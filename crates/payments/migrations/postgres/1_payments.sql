-- One account to a user. A payment changes its one row in place: the free space keeps the update
-- on the page and out of the index (HOT).
create table accounts (
    user_id uuid primary key,
    balance bigint not null check (balance between 0 and 9007199254740991),
    version bigint not null check (version >= 1),
    created_at bigint not null
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- The ledger: for each account a chain without gaps. An entry is never changed.
create table entries (
    user_id uuid not null,
    seq bigint not null check (seq >= 1),
    kind text not null check (kind in ('deposit', 'payment')),
    amount bigint not null,
    balance_after bigint not null check (balance_after >= 0),
    order_id uuid,
    created_at bigint not null,
    primary key (user_id, seq),
    check ((kind = 'payment') = (order_id is not null)),
    check ((kind = 'payment') = (amount < 0))
);

-- What was decided for an order. Kept for ever: however late or often a request comes, this key
-- lets it debit once.
create table payments (
    order_id uuid primary key,
    user_id uuid not null,
    amount bigint not null check (amount > 0),
    decline_reason text check (decline_reason in ('no_account', 'insufficient_funds')),
    created_at bigint not null
);
