-- The planner puts these in place of their calls.
create function order_id(i bigint) returns uuid immutable language sql
    return lpad(to_hex(i), 32, '0')::uuid;

-- Each client has users of its own, so that none waits for another.
create function user_id(i bigint, client int) returns uuid immutable language sql
    return lpad(to_hex(client * 400 + abs(hashint8(i)::bigint) % 400), 32, '0')::uuid;
