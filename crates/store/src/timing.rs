//! How long a request waited for the database.

use std::{cell::Cell, future::Future, time::Duration};

use tokio::{task_local, time::Instant};

task_local! {
    static WAITED: Cell<Duration>;
}

/// Does `work`; how long it waited for the database, in all that it read by itself, and in what
/// others did for it and [reported](add_database_time).
pub async fn with_database_time<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let counted = async { (work.await, WAITED.with(Cell::get)) };
    WAITED.scope(Cell::new(Duration::ZERO), counted).await
}

/// Reports that somebody else waited for the database on behalf of this task.
pub fn add_database_time(waited: Duration) {
    // Nobody asks in a task that is no request.
    let _ = WAITED.try_with(|sum| sum.set(sum.get() + waited));
}

/// Waits for the database.
pub(crate) async fn counted<T>(wait: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let done = wait.await;
    add_database_time(started.elapsed());
    done
}
