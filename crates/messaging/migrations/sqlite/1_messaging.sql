-- Messages on their way out. Ordered by the instant at which another process may take over, so
-- that the sweep for what was left behind reads only what is due, and new rows go to the right
-- edge of the one index. Rows live for milliseconds.
create table outbox (
    available_at integer not null,
    id text not null,
    topic text not null,
    partition_key text not null,
    body text not null,
    created_at integer not null,
    attempts integer not null,
    primary key (available_at, id)
) strict, without rowid;

-- What was received and dealt with: the memory that makes a repeat do nothing.
create table inbox (
    id text not null primary key,
    received_at integer not null
) strict, without rowid;
create index inbox_received_at on inbox (received_at);

-- Received, not dealt with yet: its handler failed and it waits for another attempt.
create table inbox_pending (
    id text not null primary key,
    topic text not null,
    partition_key text not null,
    body blob not null,
    received_at integer not null,
    attempts integer not null,
    next_attempt_at integer not null,
    error text not null
) strict, without rowid;
create index inbox_pending_next_attempt_at on inbox_pending (topic, next_attempt_at);
create index inbox_pending_received_at on inbox_pending (received_at);

-- Given up on until a person decides: received here (inbox) or on the way out (outbox).
create table dead_letters (
    id text not null,
    origin text not null check (origin in ('inbox', 'outbox')),
    topic text not null,
    partition_key text not null,
    body blob not null,
    received_at integer not null,
    attempts integer not null,
    died_at integer not null,
    error text not null,
    primary key (id, origin)
) strict, without rowid;
create index dead_letters_died_at on dead_letters (died_at, id, origin);
