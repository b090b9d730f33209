//! Checks that every accepted order was settled. Frames report it as it happens; orders without a
//! frame are looked up in their users' lists of orders.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    frames::Order,
    http,
    tracker::{Outcome, Tracker},
};

/// Time between two looks at the number of settled orders.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time without a frame after which the lists are read.
const FRAME_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<Order<'a>>,
    next_cursor: Option<&'a str>,
}

/// Waits until every accepted order is settled, or until none was for as long as `patience`. A shop
/// that does not answer meanwhile is asked again.
///
/// # Errors
/// The last look at the lists, when patience was over, could not be finished.
pub(crate) async fn all_settled(
    tracker: &Tracker,
    host: &Arc<str>,
    users: &[Uuid],
    patience: Duration,
) -> anyhow::Result<()> {
    let mut connection = http::Connection::to(host);
    let (mut settled, mut moved) = (tracker.state().settled(), Instant::now());
    let mut looked = Ok(());
    loop {
        let unsettled = tracker.unsettled_by_user();
        if unsettled.is_empty() {
            return Ok(());
        }
        if moved.elapsed() > patience {
            return looked;
        }
        if moved.elapsed() > FRAME_TIMEOUT {
            for (user, count) in unsettled {
                looked = look_up(tracker, &mut connection, host, users[user], count).await;
                if looked.is_err() {
                    connection = http::Connection::to(host);
                    break;
                }
            }
        }
        sleep(POLL_INTERVAL).await;
        let now = tracker.state().settled();
        if now != settled {
            (settled, moved) = (now, Instant::now());
        }
    }
}

/// Walks a user's orders, newest first, until `missing` of them were found settled or there are no
/// more.
async fn look_up(
    tracker: &Tracker,
    connection: &mut http::Connection,
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
            if let Some(outcome) = Outcome::of(order.status)
                && tracker.found_settled(order.id, outcome)
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
