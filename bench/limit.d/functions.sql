-- SQL functions that the planner inlines.
create function order_id(i bigint) returns uuid immutable language sql
    return lpad(to_hex(i), 32, '0')::uuid;

-- Each client has its own users, so that no client waits for another's rows.
create function user_id(i bigint, client int) returns uuid immutable language sql
    return lpad(to_hex(client * 400 + abs(hashint8(i)::bigint) % 400), 32, '0')::uuid;
