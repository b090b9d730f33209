//! Why the gateway did not pass a request on, or has no answer to it.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse as _,
};
use gozon_http::Problem;

/// Why the gateway answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nobody serves this path.
    NoRoute,
    /// A method that no service knows.
    Method,
    /// Too many requests are under way.
    Overloaded,
    /// The user asks too often; the seconds to wait.
    RateLimited(u32),
    /// The request's body is too large.
    BodyTooLarge,
    /// The request's body does not come.
    BodyTimeout,
    /// The request's body broke off.
    BodyUnreadable,
    /// No instance can be reached.
    Unreachable,
    /// The connection broke, or what came back was not HTTP.
    Broken,
    /// No answer in time.
    Timeout,
}

/// The methods that are passed on.
const ALLOWED: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

impl Failure {
    fn problem(self) -> Problem {
        let (status, code, detail) = match self {
            Self::NoRoute => (StatusCode::NOT_FOUND, "route_not_found", "nothing is here"),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this method is not taken anywhere here",
            ),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "too many requests are under way; try again in a moment",
            ),
            Self::RateLimited(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "this user asks too often; see Retry-After",
            ),
            Self::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body is too large")
            }
            Self::BodyTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body took too long to arrive")
            }
            Self::BodyUnreadable => {
                (StatusCode::BAD_REQUEST, "body_unreadable", "the body could not be read")
            }
            Self::Unreachable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "upstream_unavailable",
                "the service can't be reached right now; nothing was done, try again",
            ),
            Self::Broken => (
                StatusCode::BAD_GATEWAY,
                "bad_gateway",
                "the connection to the service broke before it answered",
            ),
            Self::Timeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "the service did not answer in time",
            ),
        };
        let retry_after = match self {
            Self::Overloaded | Self::Unreachable => Some(1),
            Self::RateLimited(seconds) => Some(seconds),
            _ => None,
        };
        Problem { retry_after, ..Problem::new(status, code, detail) }
    }

    /// The response, to be rendered at the edge.
    pub(crate) fn response(self) -> Response<Body> {
        let mut response = self.problem().into_response();
        if self == Self::Method {
            response.headers_mut().insert(header::ALLOW, ALLOWED);
        }
        response
    }
}
