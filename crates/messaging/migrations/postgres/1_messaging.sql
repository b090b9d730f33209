-- Messages on their way out. Ordered by the instant at which another process may take over, so
-- that the sweep for what was left behind reads only what is due, and new rows go to the right
-- edge of the one index. Rows live for milliseconds: vacuum often, by count and not by share.
create table outbox (
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

-- What was received and dealt with: the memory that makes a repeat do nothing.
create table inbox (
    id text collate "C" primary key,
    received_at bigint not null
) with (autovacuum_vacuum_insert_scale_factor = 0.2);
create index inbox_received_at on inbox (received_at);

-- Received, not dealt with yet: its handler failed and it waits for another attempt.
create table inbox_pending (
    id text collate "C" primary key,
    topic text not null,
    partition_key text not null,
    body bytea not null,
    received_at bigint not null,
    attempts bigint not null,
    next_attempt_at bigint not null,
    error text not null
);
create index inbox_pending_next_attempt_at on inbox_pending (topic, next_attempt_at);
create index inbox_pending_received_at on inbox_pending (received_at);

-- Given up on until a person decides: received here (inbox) or on the way out (outbox).
create table dead_letters (
    id text collate "C" not null,
    origin text collate "C" not null check (origin in ('inbox', 'outbox')),
    topic text not null,
    partition_key text not null,
    body bytea not null,
    received_at bigint not null,
    attempts bigint not null,
    died_at bigint not null,
    error text not null,
    primary key (id, origin)
);
create index dead_letters_died_at on dead_letters (died_at, id, origin);
