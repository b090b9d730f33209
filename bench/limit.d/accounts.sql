insert into accounts (user_id, balance, version, created_at)
select lpad(to_hex(i), 32, '0')::uuid, 1000000000000, 1, 0 from generate_series(0, 64 * 400) as i;
vacuum analyze accounts;
