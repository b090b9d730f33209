//! The clients: each places one order at a time.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{book::Book, http, pace::Pace, users::Users};

/// How long a client waits after an order that was not accepted.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
struct Accepted {
    id: Uuid,
}

/// Places orders until there are no more to place.
pub(crate) async fn client(host: Arc<str>, users: Arc<Users>, pace: Arc<Pace>, book: Arc<Book>) {
    let mut connection = http::Connection::to(&host);
    while let Some(due) = pace.next().await {
        let (user, request) = users.draw();
        let failed = match connection.send(request).await {
            Ok(answer) if answer.status == 201 => match serde_json::from_slice(answer.body) {
                Ok(Accepted { id }) => {
                    book.accepted(id, user, due);
                    continue;
                }
                Err(error) => format!("a 201 that can't be read: {error}"),
            },
            Ok(answer) => format!("status {}", answer.status),
            Err(error) => error.to_string(),
        };
        book.failed(failed);
        sleep(PAUSE).await;
    }
}
