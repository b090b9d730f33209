-- Finds the orders of a stretch of time, for those that stay NEW. A block range index has an entry per
-- range of pages and not per row, and no column that changes, so that updates stay in place (HOT).
create index orders_created_at on orders using brin (created_at)
    with (pages_per_range = 32, autosummarize = on);
