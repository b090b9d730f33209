//! Was every accepted order settled? Frames say so as it happens; what they have not said is looked
//! up, user by user, in the list of their orders.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    book::{Book, End},
    frames::Order,
    http,
};

/// How often to look while orders are being settled.
const POLL: Duration = Duration::from_millis(100);
/// How long frames may be silent before the lists are asked.
const SILENCE: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<Order<'a>>,
    next_cursor: Option<&'a str>,
}

/// Waits until every accepted order is settled, or none has been for `patience`.
pub(crate) async fn all_settled(
    book: &Book,
    host: &str,
    users: &[Uuid],
    patience: Duration,
) -> anyhow::Result<()> {
    let mut connection = http::Connection::to(host);
    let (mut settled, mut moved) = (book.pages().settled(), Instant::now());
    loop {
        let waiting = book.waiting();
        if waiting.is_empty() || moved.elapsed() > patience {
            return Ok(());
        }
        if moved.elapsed() > SILENCE {
            for (user, count) in waiting {
                look_up(book, &mut connection, host, users[user], count).await?;
            }
        }
        sleep(POLL).await;
        let now = book.pages().settled();
        if now != settled {
            (settled, moved) = (now, Instant::now());
        }
    }
}

/// Walks a user's orders, newest first, until `missing` of them were found settled or there are no
/// more.
async fn look_up(
    book: &Book,
    connection: &mut http::Connection<'_>,
    host: &str,
    user: Uuid,
    mut missing: usize,
) -> anyhow::Result<()> {
    let user = user.to_string();
    let mut path = "/orders?limit=100".to_owned();
    while missing > 0 {
        let answer = connection.send(&http::request("GET", &path, host, &user, "")).await?;
        anyhow::ensure!(answer.status == 200, "GET {path} is answered {}", answer.status);
        let page: Page<'_> =
            serde_json::from_slice(answer.body).with_context(|| format!("GET {path}"))?;
        for order in page.items {
            if let Some(end) = End::of(order.status)
                && book.found_settled(order.id, end)
            {
                missing -= 1;
            }
        }
        let Some(cursor) = page.next_cursor else {
            return Ok(());
        };
        path = format!("/orders?limit=100&cursor={cursor}");
    }
    Ok(())
}
