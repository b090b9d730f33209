-- Finds the orders of a stretch of time, for those that stay NEW.
create index orders_created_at on orders (created_at);
