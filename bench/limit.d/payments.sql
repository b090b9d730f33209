-- What a batch of orders writes to the payments database. :events is 0 for the business rows alone.
\set n :n + 1
\set first (:n * :clients + :client_id) * :batch + 1
\set last :first + :batch - 1

-- The requests are received and settled.
begin;
\if :events
insert into limit_inbox (id, received_at)
select order_id(i)::text || ':payment.requested', i from generate_series(:first, :last) as i;
\endif
insert into payments (order_id, user_id, amount, created_at)
select order_id(i), user_id(i, :client_id), 9900, i from generate_series(:first, :last) as i;
insert into entries (user_id, seq, kind, amount, balance_after, order_id, created_at)
select user_id(i, :client_id), i, 'payment', -9900, 1, order_id(i), i
from generate_series(:first, :last) as i;
update accounts set balance = balance - paid, version = version + entries
from (
    select user_id(i, :client_id) as payer, sum(9900) as paid, count(*) as entries
    from generate_series(:first, :last) as i group by payer
) as payers
where user_id = payer;
\if :events
insert into limit_outbox (available_at, id, topic, partition_key, body, created_at, attempts)
select :first, order_id(i)::text || ':payment.settled', 'payment.settled',
       user_id(i, :client_id)::text, rpad('{', 480, 'x'), i, 0
from generate_series(:first, :last) as i;
\endif
commit;

-- The results are sent.
\if :events
delete from limit_outbox where available_at = :first;
\endif
