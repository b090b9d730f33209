//! The clients: each places one order at a time.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{http, schedule::Schedule, tracker::Tracker, users::Users};

/// How long a client waits after a request that failed.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// What is read of a 201.
#[derive(Deserialize)]
struct Accepted {
    id: Uuid,
}

/// Places orders until there are no more to place.
pub(crate) async fn client(
    pool: Arc<http::Pool>,
    users: Arc<Users>,
    schedule: Arc<Schedule>,
    tracker: Arc<Tracker>,
) {
    while let Some(due) = schedule.next().await {
        let mut connection = pool.take();
        let (user, request) = users.draw();
        let failure = match connection.send(request).await {
            Ok(answer) if answer.status == 201 => match serde_json::from_slice(answer.body) {
                Ok(Accepted { id }) => {
                    tracker.accepted(id, user, due);
                    None
                }
                Err(error) => Some(format!("a 201 that can't be read: {error}")),
            },
            Ok(answer) => Some(format!("status {}", answer.status)),
            Err(error) => Some(error.to_string()),
        };
        pool.put(connection);
        if let Some(reason) = failure {
            tracker.failed(reason);
            sleep(RETRY_DELAY).await;
        }
    }
}
