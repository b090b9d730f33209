//! Checks of a request's head, before anything is done for it.

use axum::http::{
    HeaderMap, HeaderValue, Method, Uri, Version,
    header::{CONTENT_ENCODING, HOST, TRANSFER_ENCODING},
    request::Parts,
    uri::Authority,
};

use crate::{config::Limits, error::ProxyError};

/// The longest `Host` that is accepted, in bytes: a DNS name and a port. It is forwarded twice.
const MAX_HOST_BYTES: usize = 261;

/// Whether a request can be forwarded at all.
pub(crate) fn check(parts: &Parts, has_body: bool, limits: &Limits) -> Result<(), ProxyError> {
    if parts.method == Method::CONNECT {
        return Err(ProxyError::Connect);
    }
    check_host(parts)?;
    check_size(&parts.uri, &parts.headers, limits)?;
    if has_body { check_coding(&parts.headers) } else { Ok(()) }
}

/// There must be one `Host`; only HTTP/1.0 knows none.
fn check_host(parts: &Parts) -> Result<(), ProxyError> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if host.len() <= MAX_HOST_BYTES && is_host(host) => Ok(()),
        (None, None) if parts.version < Version::HTTP_11 => Ok(()),
        _ => Err(ProxyError::Host),
    }
}

/// A name or an address, perhaps with a port (RFC 9110, section 7.2).
fn is_host(value: &HeaderValue) -> bool {
    let authority = value.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| !authority.as_str().contains('@'))
}

fn check_size(uri: &Uri, headers: &HeaderMap, limits: &Limits) -> Result<(), ProxyError> {
    let uri = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let fields = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    if headers.len() > limits.headers || uri + fields.sum::<usize>() > limits.head {
        return Err(ProxyError::HeadTooLarge);
    }
    Ok(())
}

/// A body must be as it is: not compressed, in chunks at most.
fn check_coding(headers: &HeaderMap) -> Result<(), ProxyError> {
    let all = |name, only: &str| {
        headers
            .get_all(name)
            .iter()
            .all(|value| value.as_bytes().eq_ignore_ascii_case(only.as_bytes()))
    };
    if !all(TRANSFER_ENCODING, "chunked") {
        return Err(ProxyError::TransferEncoding);
    }
    if !all(CONTENT_ENCODING, "identity") {
        return Err(ProxyError::ContentEncoding);
    }
    Ok(())
}
