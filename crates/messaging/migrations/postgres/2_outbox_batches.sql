-- A row of the outbox is a batch: what one transaction sends on one topic. The old table stays for
-- instances of the release before; what they leave in it, the new ones move over.
create table outbox_batches (
    available_at bigint not null,
    id text collate "C" not null,
    topic text not null,
    -- One CloudEvent as a JSON object, or several as an array of them; how many there are.
    body text not null,
    events bigint not null check (events > 0),
    created_at bigint not null,
    attempts bigint not null,
    primary key (available_at, id)
) with (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 10000,
    toast.autovacuum_vacuum_cost_delay = 0
);

-- Bodies are several pages long. lz4 is faster than the default, where the server has it.
do $$
begin
    execute 'alter table outbox_batches alter column body set compression lz4';
exception when others then
    raise notice 'outbox_batches: without lz4';
end
$$;

