-- A row of the outbox is a batch: what one transaction sends on one topic. The old table stays for
-- instances of the release before; what they leave in it, the new ones move over.
create table outbox_batches (
    available_at integer not null,
    id text not null,
    topic text not null,
    -- One CloudEvent as a JSON object, or several as an array of them; how many there are.
    body text not null,
    events integer not null check (events > 0),
    created_at integer not null,
    attempts integer not null,
    primary key (available_at, id)
) strict, without rowid;
