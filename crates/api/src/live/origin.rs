//! Which web pages may connect.

use axum::http::{
    HeaderMap, Uri,
    header::{HOST, ORIGIN},
};

/// Clients that are no browser send no origin. A page's origin must be the host that it talks to,
/// or be on the list: browsers let any page open a WebSocket to any host, and leave it to the
/// server to refuse.
pub(super) fn origin_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    if allowed.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let Ok(origin) = origin.parse::<Uri>() else {
        return false;
    };
    requested_host(headers).is_some_and(|host| same_host(&origin, &host))
}

/// The host that the client asked for. Each proxy on the way may have added its own to the list;
/// the client's is the first.
fn requested_host(headers: &HeaderMap) -> Option<Uri> {
    let value = headers.get("x-forwarded-host").or_else(|| headers.get(HOST))?;
    value.to_str().ok()?.split(',').next()?.trim().parse().ok()
}

/// Whether a page's origin is this host. A host without a port means the default one. A proxy that
/// leaves another port out makes the shop's own page a stranger; to let the name alone decide would
/// let in the pages of whatever else runs on that machine.
fn same_host(origin: &Uri, host: &Uri) -> bool {
    let default = match origin.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return false,
    };
    let port = origin.port_u16().unwrap_or(default);
    let same_name = origin.host().zip(host.host()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b));
    same_name && host.port_u16().unwrap_or(default) == port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(origin: &str, host: &str, forwarded: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        headers.insert(HOST, host.parse().unwrap());
        if let Some(forwarded) = forwarded {
            headers.insert("x-forwarded-host", forwarded.parse().unwrap());
        }
        headers
    }

    #[test]
    fn own_and_listed_pages_may_connect() {
        let allowed = |origin: &str, host: &str, list: &[&str]| {
            let list: Vec<_> = list.iter().map(|&item| item.to_owned()).collect();
            origin_allowed(&headers(origin, host, None), &list)
        };
        assert!(origin_allowed(&HeaderMap::new(), &[]));
        assert!(allowed("http://localhost:8080", "localhost:8080", &[]));
        assert!(allowed("http://[::1]:8080", "[::1]:8080", &[]));
        assert!(!allowed("http://localhost:8080", "localhost:8081", &[]));
        assert!(!allowed("http://evil.example", "localhost:8080", &[]));
        assert!(!allowed("null", "localhost:8080", &[]));
        assert!(!allowed("file://localhost", "localhost", &[]));
        assert!(allowed("https://shop.example", "api.example", &["https://shop.example"]));
        assert!(allowed("http://evil.example", "localhost:8080", &["*"]));
    }

    #[test]
    fn a_proxy_may_name_the_host_in_many_ways() {
        let allowed = |origin: &str, forwarded: &str| {
            origin_allowed(&headers(origin, "10.0.0.5:8081", Some(forwarded)), &[])
        };
        for host in ["shop.example", "shop.example:443", "SHOP.example", "shop.example, inner:80"] {
            assert!(allowed("https://shop.example", host), "{host}");
        }
        assert!(allowed("http://shop.example", "shop.example:80"));
        assert!(allowed("https://shop.example:8443", "shop.example:8443"));
        for host in ["shop.example:80", "inner, shop.example", "shop.example.evil.example", ""] {
            assert!(!allowed("https://shop.example", host), "{host}");
        }
        for origin in ["https://shop.example:8443", "http://shop.example:8080"] {
            assert!(!allowed(origin, "shop.example"), "{origin}: another port, another page");
        }
    }
}
