//! The inbox: which deliveries were dealt with.

use std::collections::HashSet;

use gozon_contract::Timestamp;
use gozon_store::{Reader, Result, Rows, Statement, select};

/// Marks deliveries as dealt with. One that is marked already is a conflict; to pass over it would
/// cost PostgreSQL a look and a log entry more for each that is not.
pub(crate) fn mark(ids: &[&str], now: Timestamp) -> Statement {
    Statement::new("insert into inbox (id, received_at) select id, $1 from {rows}")
        .bind(now.micros())
        .rows(rows(ids))
}

/// Which of these deliveries are marked.
pub(crate) async fn marked(reader: &mut Reader, ids: &[&str]) -> Result<HashSet<String>> {
    let marked: Vec<(String,)> = reader
        .query(select!("select id from inbox where id {among}"))
        .rows(rows(ids))
        .fetch_all()
        .await?;
    Ok(marked.into_iter().map(|(id,)| id).collect())
}

/// Sorted, so that two instances that got the same deliveries in another order don't deadlock.
fn rows(ids: &[&str]) -> Rows {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    Rows::of(&ids).text("id", |id| (*id).to_owned()).done()
}

/// Forgets up to `$2` deliveries that were received before `$1`.
pub(crate) const FORGET: &str = "with old as materialized (
        select id from inbox where received_at < $1 order by received_at limit $2 {skip_locked}
     )
     delete from inbox where id in (select id from old)";
