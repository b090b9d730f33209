-- Stores :orders finished orders, 200 of each user.
insert into orders (user_id, id, amount, description, status, version, created_at, updated_at)
select lpad(to_hex((n - 1) / 200), 32, '0')::uuid, lpad(to_hex(n), 32, '0')::uuid, 9900,
       'A red kettle', 'FINISHED', 2, n, n + 1
from generate_series(1, :orders) as n;
vacuum analyze;
