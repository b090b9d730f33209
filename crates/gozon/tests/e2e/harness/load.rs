//! Doing many things at once, and waiting for what comes in its own time.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep};

/// Runs `work` for each of `items`, never more than `most` at once. Results come in any order.
pub async fn at_once<T, R, F: Future<Output = R>>(
    most: usize,
    items: impl IntoIterator<Item = T>,
    work: impl FnMut(T) -> F,
) -> Vec<R> {
    stream::iter(items).map(work).buffer_unordered(most).collect().await
}

/// Asks until there is an answer, and fails the test after three minutes without one: an event is
/// given up on after one.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_mins(3);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "still waiting until {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether this is the long run.
pub fn soaking() -> bool {
    std::env::var_os("GOZON_SOAK").is_some()
}
