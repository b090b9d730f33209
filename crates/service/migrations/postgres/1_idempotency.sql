create table idempotency_keys (
    user_id uuid not null,
    key text collate "C" not null,
    fingerprint text not null,
    answer text not null,
    created_at bigint not null,
    primary key (user_id, key)
);
create index idempotency_keys_created_at on idempotency_keys (created_at);
