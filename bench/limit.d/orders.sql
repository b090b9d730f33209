-- What a batch of orders writes to the orders database. :events is 0 for the business rows alone.
\set n :n + 1
\set first (:n * :clients + :client_id) * :batch + 1
\set last :first + :batch - 1

-- They are placed.
begin;
insert into orders (user_id, id, amount, description, status, version, created_at, updated_at)
select user_id(i, :client_id), order_id(i), 9900, 'A red kettle', 'NEW', 1, i, i
from generate_series(:first, :last) as i;
\if :events
insert into limit_outbox (available_at, id, topic, partition_key, body, created_at, attempts)
select :first, order_id(i)::text || ':payment.requested', 'payment.requested',
       user_id(i, :client_id)::text, rpad('{', 478, 'x'), i, 0
from generate_series(:first, :last) as i;
\endif
commit;

-- The requests for payment are sent.
\if :events
delete from limit_outbox where available_at = :first;
\endif

-- The results are received.
begin;
\if :events
insert into limit_inbox (id, received_at)
select order_id(i)::text || ':payment.settled', i from generate_series(:first, :last) as i;
\endif
update orders set status = 'FINISHED', version = version + 1, updated_at = i
from generate_series(:first, :last) as i
where user_id = user_id(i, :client_id) and id = order_id(i) and status = 'NEW';
\if :events
insert into limit_outbox (available_at, id, topic, partition_key, body, created_at, attempts)
select :first, order_id(i)::text || ':order.changed', 'order.changed',
       user_id(i, :client_id)::text, rpad('{', 630, 'x'), i, 0
from generate_series(:first, :last) as i;
\endif
commit;

-- The changes are sent.
\if :events
delete from limit_outbox where available_at = :first;
\endif
