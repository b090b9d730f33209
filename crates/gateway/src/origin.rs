//! Where an instance listens.

use std::{fmt, net::IpAddr, str::FromStr};

use axum::http::{
    Uri,
    uri::{Authority, Scheme},
};

/// Where an instance listens: `http://host:port`. A name with several addresses stands for as many
/// instances, and is looked up again every few seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) authority: Authority,
}

/// Not an instance's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a URL such as http://orders:8081")]
pub struct InvalidOrigin(String);

impl Origin {
    /// Whether the host is a name, not an address.
    pub(crate) fn is_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let invalid = || InvalidOrigin(text.to_owned());
        let uri: Uri = text.trim().parse().map_err(|_| invalid())?;
        let authority = uri.authority().ok_or_else(invalid)?;
        let bare = matches!(uri.path_and_query().map_or("/", |path| path.as_str()), "/" | "");
        if uri.scheme() != Some(&Scheme::HTTP) || !bare || authority.as_str().contains('@') {
            return Err(invalid());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(invalid());
        }
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.clone(),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_origins_are_taken() {
        let origin: Origin = "http://[::1]:8081/".parse().unwrap();
        assert_eq!((origin.host.as_str(), origin.port), ("::1", 8081));
        assert_eq!(origin.to_string(), "http://[::1]:8081");
        assert_eq!("http://orders".parse::<Origin>().unwrap().port, 80);
        for bad in ["", "orders:8081", "https://orders", "http://a/b", "http://u@a", "http://:80"] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
