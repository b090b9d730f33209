-- The outbox and the inbox with a row per event.
create table limit_outbox (
    available_at bigint not null,
    id text collate "C" not null,
    topic text not null,
    partition_key text not null,
    body text not null,
    created_at bigint not null,
    attempts bigint not null,
    primary key (available_at, id)
) with (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_cost_delay = 0
);
create table limit_inbox (
    id text collate "C" primary key,
    received_at bigint not null
) with (autovacuum_vacuum_insert_scale_factor = 0.2);
create index limit_inbox_received_at on limit_inbox (received_at);
