//! Why the gateway answers a request by itself.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse as _,
};
use gozon_http::Problem;

/// Why the gateway answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyError {
    /// Nobody serves this path.
    NoRoute,
    /// `CONNECT`: this is no such proxy.
    Connect,
    /// No `Host` header, or more than one, or one that is no host.
    Host,
    /// The request's head has too many headers or is too large.
    HeadTooLarge,
    /// The request's body has a `Content-Encoding`.
    ContentEncoding,
    /// The request's body has a transfer coding other than chunks.
    TransferEncoding,
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
    BadGateway,
    /// No answer in time.
    Timeout,
}

/// The methods that the shop knows, on any path.
const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

impl ProxyError {
    /// What the client is told.
    pub(crate) fn problem(self) -> Problem {
        let (status, code, detail) = match self {
            Self::NoRoute => (StatusCode::NOT_FOUND, "route_not_found", "nothing is here"),
            Self::Connect => (
                StatusCode::NOT_IMPLEMENTED,
                "method_not_implemented",
                "this is no proxy to other hosts",
            ),
            Self::Host => (
                StatusCode::BAD_REQUEST,
                "invalid_host",
                "a request has exactly one Host header, with a host",
            ),
            Self::ContentEncoding => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_content_encoding",
                "send the body as it is, without Content-Encoding",
            ),
            Self::TransferEncoding => (
                StatusCode::NOT_IMPLEMENTED,
                "unsupported_transfer_encoding",
                "the only transfer coding here is chunked",
            ),
            Self::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                "the request has too many headers, or its head is too large",
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
            Self::BadGateway => (
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
        let headers = response.headers_mut();
        match self {
            Self::Connect => headers.insert(header::ALLOW, ALLOWED),
            Self::ContentEncoding => headers.insert(header::ACCEPT_ENCODING, IDENTITY),
            _ => None,
        };
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_over_grpc_are_the_same_problems() {
        for error in [ProxyError::Unreachable, ProxyError::BadGateway, ProxyError::Timeout] {
            let problem = error.problem();
            assert_eq!(gozon_rpc::problem(&gozon_rpc::status(&problem)), problem);
        }
    }
}
