//! A live client: a WebSocket that connects again whenever it is closed.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use futures_util::StreamExt as _;
use http_body_util::Full;
use hyper::{Request, StatusCode, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};
use uuid::Uuid;

use crate::{
    dice::Dice,
    http, log,
    notes::{Notes, View},
    run::violation,
};

/// How long a live client waits for its first frame.
const FIRST_FRAME: Duration = Duration::from_secs(15);
/// A live client leaves by itself fewer times than this.
const MAX_VISITS: u64 = 8;

/// Connects again and again. At first it leaves by itself some times, as a page that is opened and
/// closed.
pub(crate) async fn follow(user: Uuid, notes: Notes, mut dice: Dice) {
    let view = notes.add_view(user);
    let mut visits = dice.below(MAX_VISITS);
    loop {
        let gateway = usize::try_from(dice.below(2)).unwrap_or(0);
        if let Some(socket) = connect(gateway, user).await {
            view.borrow_mut().seen.clear();
            let stay = if visits > 0 { dice.millis(20, 600) } else { Duration::MAX };
            visits = visits.saturating_sub(1);
            let _ = timeout(stay, listen(socket, &view, &notes)).await;
            view.borrow_mut().is_open = false;
            log::note(format_args!("a socket of {user} is closed"));
        }
        sleep(dice.millis(if visits > 0 { 20 } else { 200 }, 1_500)).await;
    }
}

async fn connect(gateway: usize, user: Uuid) -> Option<WebSocketStream<TokioIo<Upgraded>>> {
    let request = Request::builder()
        .uri("/orders/stream")
        .header("host", "shop")
        .header("x-user-id", user.to_string())
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(Full::default())
        .ok()?;
    let response = timeout(FIRST_FRAME, http::send(gateway, request)).await.ok()??;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if response.status() == StatusCode::INTERNAL_SERVER_ERROR {
            violation("a socket was answered 500".to_owned());
        }
        return None;
    }
    let upgraded = timeout(FIRST_FRAME, hyper::upgrade::on(response)).await.ok()?.ok()?;
    Some(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
}

async fn listen(
    mut socket: WebSocketStream<TokioIo<Upgraded>>,
    view: &Rc<RefCell<View>>,
    notes: &Notes,
) {
    let mut has_snapshot = false;
    loop {
        let next = if has_snapshot {
            socket.next().await
        } else {
            let Ok(first) = timeout(FIRST_FRAME, socket.next()).await else { return };
            first
        };
        let Some(Ok(message)) = next else { return };
        let Message::Text(text) = message else { continue };
        let frame: Value = serde_json::from_str(&text).unwrap_or_default();
        match frame["type"].as_str() {
            Some("snapshot") if !has_snapshot => {
                has_snapshot = true;
                let orders = frame["orders"].as_array().cloned().unwrap_or_default();
                log::note(format_args!("a snapshot with {} orders", orders.len()));
                view.borrow_mut().is_open = true;
                for order in &orders {
                    see(&mut view.borrow_mut(), order, true, notes);
                }
            }
            Some("order") if has_snapshot => {
                see(&mut view.borrow_mut(), &frame["order"], false, notes);
            }
            _ => violation(format!("an unexpected frame: {text}")),
        }
    }
}

fn see(view: &mut View, order: &Value, is_snapshot: bool, notes: &Notes) {
    let id = order["id"].as_str().unwrap_or_default().to_owned();
    let version = order["version"].as_i64().unwrap_or(0);
    let status = order["status"].as_str().unwrap_or_default().to_owned();
    if order["user_id"].as_str() != Some(&view.user.to_string()) {
        violation(format!("a socket of {} got order {id} of somebody else", view.user));
    }
    let known = view.seen.get(&id).map_or(0, |(version, _)| *version);
    if !is_snapshot && version <= known {
        violation(format!("a frame put order {id} from version {known} to {version}"));
    }
    if !is_snapshot && version > 1 {
        log::sometimes("a socket saw an order settled");
    }
    notes.told(&id, version);
    view.seen.insert(id, (version, status));
}

/// What an open view lacks or has wrong, given the user's orders as they are.
pub(crate) fn lies(view: &View, orders: &BTreeMap<String, (Uuid, i64, String)>) -> Option<String> {
    if !view.is_open {
        return Some(format!("a socket of {} is not open", view.user));
    }
    let of_user = || orders.iter().filter(|(_, (user, ..))| *user == view.user);
    of_user().find_map(|(id, (_, version, status))| {
        let seen = view.seen.get(id);
        let is_true = seen.is_some_and(|(seen, told)| seen == version && told == status);
        (!is_true).then(|| format!("order {id} is {status} ({version}), the socket says {seen:?}"))
    })
}
