create table idempotency_keys (
    user_id blob not null,
    key text not null,
    fingerprint text not null,
    answer text not null,
    created_at integer not null,
    primary key (user_id, key)
) strict, without rowid;
create index idempotency_keys_created_at on idempotency_keys (created_at);
