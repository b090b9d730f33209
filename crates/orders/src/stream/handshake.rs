//! Before the upgrade: who asks, from where, and whether there is room.

use axum::{
    extract::{
        FromRequestParts, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection,
    },
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::Response,
};
use gozon_contract::UserId;
use gozon_http::{CurrentUser, Params, Problem};

use super::{hub::Full, socket};
use crate::service::App;

/// The largest message a client may send; there is nothing that it needs to say.
const CLIENT_MESSAGE: usize = 4 * 1024;
/// How much is gathered before it is written, unless there is no more to gather.
const FLUSH: usize = 16 * 1024;
/// Room for the largest snapshot: a hundred orders, each with the longest description.
const WRITE_BUFFER: usize = 2 * 1024 * 1024;

/// The user, from the header or, since browsers can't set one on a WebSocket, from `?user_id=`.
pub(crate) struct StreamUser(UserId);

impl<S: Sync> FromRequestParts<S> for StreamUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = Params::from_request_parts(parts, state).await?;
        match params.get("user_id") {
            Some(id) if !parts.headers.contains_key("x-user-id") => id
                .parse()
                .map(Self)
                .map_err(|_| Problem::unreadable("invalid_user_id", "user_id must be one UUID")),
            _ => CurrentUser::from_request_parts(parts, state).await.map(|user| Self(user.0)),
        }
    }
}

/// Live orders
///
/// A WebSocket. The first frame is `{"type":"snapshot","orders":[…]}` with the user's newest 100
/// orders; then comes `{"type":"order","order":{…}}` for each change. Keep the highest `version`
/// seen of each order. The frames are described in `api/asyncapi.yaml`.
#[utoipa::path(
    get,
    path = "/orders/stream",
    tag = "orders",
    params(
        ("X-User-Id" = Option<Uuid>, Header, description = "The user"),
        ("user_id" = Option<Uuid>, Query, description = "The user, where the client can't set headers"),
    ),
    responses(
        (status = 101, description = "Upgraded to a WebSocket"),
        (status = 400, description = "`missing_user_id`, `invalid_user_id`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`origin_not_allowed`", body = Problem, content_type = "application/problem+json"),
        (status = 426, description = "`upgrade_required`", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "`too_many_sockets`: this user has too many", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`too_many_sockets`: this instance has too many", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn stream(
    State(app): State<App>,
    StreamUser(user): StreamUser,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|rejection| {
        let status = StatusCode::UPGRADE_REQUIRED;
        Problem::new(status, "upgrade_required", format!("a WebSocket handshake: {rejection}"))
    })?;
    if !origin_allowed(&headers, &app.hub.limits().origins) {
        let detail = "pages from this origin may not connect";
        return Err(Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail));
    }
    if app.sockets_stop.is_cancelled() {
        return Err(Problem::unavailable("shutting down; connect again"));
    }
    // A seat is taken before the upgrade, so that a refusal is still an HTTP answer; from here on
    // no change is missed.
    let seat = app.hub.join(user).map_err(|full| {
        let (status, detail) = match full {
            Full::User => (StatusCode::TOO_MANY_REQUESTS, "this user has too many sockets here"),
            Full::Instance => (StatusCode::SERVICE_UNAVAILABLE, "this instance has no room left"),
        };
        let problem = Problem::new(status, "too_many_sockets", detail);
        Problem { retry_after: Some(5), ..problem }
    })?;
    Ok(upgrade
        .read_buffer_size(CLIENT_MESSAGE)
        .write_buffer_size(FLUSH)
        .max_write_buffer_size(WRITE_BUFFER)
        .max_message_size(CLIENT_MESSAGE)
        .max_frame_size(CLIENT_MESSAGE)
        .on_upgrade(move |socket| socket::run(socket, user, seat, app)))
}

/// Clients that are no browser send no origin. A page's origin must be the host it talks to, or be
/// on the list: browsers let any page open a WebSocket to any host, and leave it to us to refuse.
fn origin_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    if allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let Some((_, authority)) = origin.split_once("://") else {
        return false;
    };
    ["x-forwarded-host", "host"]
        .iter()
        .find_map(|name| headers.get(*name)?.to_str().ok())
        .is_some_and(|host| host.eq_ignore_ascii_case(authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_page_and_listed_ones_may_connect() {
        let allowed = |origin: &str, host: &str, list: &[&str]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            headers.insert(header::HOST, host.parse().unwrap());
            let list: Vec<_> = list.iter().map(|&item| item.to_owned()).collect();
            origin_allowed(&headers, &list)
        };
        assert!(origin_allowed(&HeaderMap::new(), &[]));
        assert!(allowed("http://localhost:8080", "localhost:8080", &[]));
        assert!(!allowed("http://evil.example", "localhost:8080", &[]));
        assert!(!allowed("null", "localhost:8080", &[]));
        assert!(allowed("https://shop.example", "api.example", &["https://shop.example"]));
        assert!(allowed("http://evil.example", "localhost:8080", &["*"]));
    }
}
