-- Stores the payments of those orders: each user paid in once and then paid for each order.
create temporary table payers as
select u, lpad(to_hex(u), 32, '0')::uuid as user_id, least(200, :orders - u * 200) as orders
from generate_series(0, (:orders - 1) / 200) as u;
insert into accounts (user_id, balance, version, created_at)
select user_id, 1000000000 - 9900 * orders, 2 + orders, 0 from payers;
insert into entries (user_id, seq, kind, amount, balance_after, created_at)
select user_id, 1, 'deposit', 1000000000, 1000000000, 0 from payers;
insert into entries (user_id, seq, kind, amount, balance_after, order_id, created_at)
select user_id, 1 + k, 'payment', -9900, 1000000000 - 9900 * k,
       lpad(to_hex(u * 200 + k), 32, '0')::uuid, u * 200 + k
from payers, generate_series(1, orders) as k;
insert into payments (order_id, user_id, amount, created_at)
select lpad(to_hex(u * 200 + k), 32, '0')::uuid, user_id, 9900, u * 200 + k
from payers, generate_series(1, orders) as k;
vacuum analyze;
