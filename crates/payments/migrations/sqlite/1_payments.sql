-- One account to a user.
create table accounts (
    user_id blob not null primary key,
    balance integer not null check (balance between 0 and 9007199254740991),
    version integer not null check (version >= 1),
    created_at integer not null
) strict, without rowid;

-- The ledger: for each account a chain without gaps. An entry is never changed.
create table entries (
    user_id blob not null,
    seq integer not null check (seq >= 1),
    kind text not null check (kind in ('deposit', 'payment')),
    amount integer not null,
    balance_after integer not null check (balance_after >= 0),
    order_id blob,
    created_at integer not null,
    primary key (user_id, seq),
    check ((kind = 'payment') = (order_id is not null)),
    check ((kind = 'payment') = (amount < 0))
) strict, without rowid;

-- What was decided for an order. Kept for ever: however late or often a request comes, this key
-- lets it debit once.
create table payments (
    order_id blob not null primary key,
    user_id blob not null,
    amount integer not null check (amount > 0),
    decline_reason text check (decline_reason in ('no_account', 'insufficient_funds')),
    created_at integer not null
) strict, without rowid;
