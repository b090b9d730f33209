//! What is passed on of a head, and what is said about where it came from.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::ConnectInfo,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, Request, Version,
        header::{
            CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
            TRAILER, TRANSFER_ENCODING, UPGRADE,
        },
    },
};
use gozon_http::{REQUEST_ID, RequestContext};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Headers about one connection, not about the message.
const HOP_BY_HOP: [HeaderName; 8] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether the client asks to switch to WebSocket.
pub(crate) fn wants_websocket<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::GET
        && headers.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && named(headers).any(|name| name.eq_ignore_ascii_case("upgrade"))
}

/// Takes out what concerns only the connection it came on, with all that `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let names: Vec<HeaderName> = named(headers).filter_map(|name| name.parse().ok()).collect();
        for name in names {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    // A request with both is sent in chunks; two lengths must never reach the next hop.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Makes a request one for the next hop. What is added here, no `Connection` can name.
pub(crate) fn forward<B>(request: &mut Request<B>, is_websocket: bool) {
    *request.version_mut() = Version::HTTP_11;
    let extensions = std::mem::take(request.extensions_mut());
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    // Answered by this hop's server when it read the body.
    headers.remove(EXPECT);
    if is_websocket {
        keep_upgrade(headers);
    }
    if let Some(ConnectInfo(peer)) = extensions.get::<ConnectInfo<SocketAddr>>() {
        append_peer(headers, peer.ip());
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
    if let Some(context) = extensions.get::<RequestContext>() {
        identify(headers, context);
    }
}

/// Says "switch to WebSocket" to the next hop.
pub(crate) fn keep_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// The names that `Connection` gives.
fn named(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn identify(headers: &mut HeaderMap, context: &RequestContext) {
    if let Ok(id) = HeaderValue::from_str(&context.request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Ok(trace) = HeaderValue::try_from(context.trace.to_string()) {
        headers.insert(TRACEPARENT, trace);
    }
}

fn append_peer(headers: &mut HeaderMap, peer: IpAddr) {
    let mut list = String::new();
    for value in headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()) {
        list.push_str(value);
        list.push_str(", ");
    }
    list.push_str(&peer.to_canonical().to_string());
    if let Ok(value) = HeaderValue::try_from(list) {
        headers.insert(FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_connection_names_goes_too() {
        let mut headers = headers(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("accept"));
    }

    fn request(lines: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        *request.headers_mut() = headers(lines);
        request
    }

    #[test]
    fn peers_are_appended() {
        let mut request =
            request(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https")]);
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 2], 99))));
        forward(&mut request, false);
        assert_eq!(request.headers()["x-forwarded-for"], "10.0.0.1, 10.0.0.2");
        assert_eq!(request.headers()["x-forwarded-proto"], "https");
    }

    #[test]
    fn only_a_get_that_says_both_is_a_websocket() {
        let mut both = request(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        assert!(wants_websocket(&both));
        *both.method_mut() = Method::POST;
        assert!(!wants_websocket(&both));
        assert!(!wants_websocket(&request(&[("upgrade", "websocket")])));
    }
}
