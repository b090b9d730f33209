//! What is passed on of a head, and what is said about where it came from.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::ConnectInfo,
    http::{
        Extensions, HeaderMap, HeaderName, HeaderValue, Method,
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
pub(crate) fn wants_websocket(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::GET
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
    // Whoever says both means chunks; two lengths must never reach the next hop.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Makes a request's headers those of the next hop. What is added here, no `Connection` can name.
pub(crate) fn forward(headers: &mut HeaderMap, extensions: &Extensions, websocket: bool) {
    strip_hop_by_hop(headers);
    // Answered by this hop's server as soon as the body is asked for.
    headers.remove(EXPECT);
    if websocket {
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
    // The edge has put it there; it is missing only if `Connection` named it.
    if !headers.contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&context.request_id)
    {
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

    #[test]
    fn peers_are_appended() {
        let mut headers =
            headers(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https")]);
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 2], 99))));
        forward(&mut headers, &extensions, false);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 10.0.0.2");
        assert_eq!(headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn only_a_get_that_says_both_is_a_websocket() {
        let both = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        assert!(wants_websocket(&Method::GET, &both));
        assert!(!wants_websocket(&Method::POST, &both));
        let one = headers(&[("upgrade", "websocket")]);
        assert!(!wants_websocket(&Method::GET, &one));
    }
}
