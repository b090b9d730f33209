//! Before the stream: who asks, from where, for which transport, and whether there is room.

use axum::{
    body::Body,
    extract::{FromRequestParts, Request, State},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use gozon_contract::UserId;
use gozon_http::{CurrentUser, Params, Problem};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::{
    WatchOrders, events, origin::origin_allowed, session::Session, shutting_down, websocket,
};
use crate::{Call, orders::App};

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
/// A WebSocket, or server-sent events where `Accept` says `text/event-stream`. The first frame is
/// `{"type":"snapshot","orders":[…]}` with the user's newest 100 orders; then comes
/// `{"type":"order","order":{…}}` for each change. Keep the highest `version` seen of each order.
/// The frames are described in `api/asyncapi.yaml`.
///
/// As an event, a frame is the `data`, and its `id` may be sent as `Last-Event-ID` within an hour:
/// instead of the snapshot, there come the orders that changed since.
#[utoipa::path(
    get,
    path = "/orders/stream",
    operation_id = "watchOrders",
    tag = "orders",
    params(
        ("X-User-Id" = Option<Uuid>, Header, description = "The user"),
        ("Last-Event-ID" = Option<i64>, Header, description = "The `id` of the last event that was received (server-sent events only)"),
        ("user_id" = Option<Uuid>, Query, description = "The user, where the client can't set headers"),
    ),
    responses(
        (status = 101, description = "Upgraded to a WebSocket"),
        (status = 200, description = "Server-sent events, without end", body = String, content_type = "text/event-stream"),
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
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let call = Call::of(user, &mut parts).await?;
    let mut request = Request::from_parts(parts, body);
    let upgrade = match create_response_with_body(&request, Body::empty) {
        Ok(response) => Some(response),
        Err(_) if events::wanted(request.headers()) => None,
        Err(rejection) => {
            let detail =
                format!("a WebSocket handshake, or `Accept: text/event-stream`: {rejection}");
            let problem = Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail);
            let offer = [
                (header::CONNECTION, "upgrade"),
                (header::UPGRADE, "websocket"),
                (header::SEC_WEBSOCKET_VERSION, "13"),
            ];
            return Ok((offer, problem).into_response());
        }
    };
    if !origin_allowed(request.headers(), &app.live.origins) {
        let detail = "pages from this origin may not connect: GOZON_ALLOWED_ORIGINS does not list it, \
                      and it is not the host of this request";
        return Err(Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail));
    }
    if app.live.stop.is_cancelled() {
        return Err(shutting_down());
    }
    // Before the answer, so that a refusal is still an HTTP answer; from here on no change is missed.
    let resume_from = if upgrade.is_none() { events::resume_from(request.headers()) } else { None };
    let query = WatchOrders { resume_from, up_to_date: None };
    let session = Session::new(app.orders.watch(call, query).await?, app.live);
    let Some(response) = upgrade else {
        return Ok(events::respond(session));
    };
    let switched = hyper::upgrade::on(&mut request);
    gozon_seam::spawn(websocket::run(switched, session));
    Ok(response)
}
