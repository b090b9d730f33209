//! Where an instance listens, and what is spoken to it.

use std::{fmt, net::IpAddr, str::FromStr};

use axum::http::{Uri, uri::Authority};

/// What is spoken to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// `http://…`: requests are passed on as they are.
    Http,
    /// `grpc://…`: the gateway answers REST, and calls the service.
    Grpc,
}

/// Where an instance listens: `http://host:port` or `grpc://host:port`. A name with several addresses stands for as many
/// instances, and is looked up again every few seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub(crate) carrier: Carrier,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) authority: Authority,
}

/// Not an instance's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a URL such as http://orders:8081")]
pub struct InvalidOrigin(String);

impl Origin {
    /// What is spoken to the instance.
    pub fn carrier(&self) -> Carrier {
        self.carrier
    }

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
        let carrier = match uri.scheme_str() {
            Some("http") => Carrier::Http,
            Some("grpc") => Carrier::Grpc,
            _ => return Err(invalid()),
        };
        if !bare || authority.as_str().contains('@') {
            return Err(invalid());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(invalid());
        }
        Ok(Self {
            carrier,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.clone(),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.carrier {
            Carrier::Http => "http",
            Carrier::Grpc => "grpc",
        };
        write!(f, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_origins_are_taken() {
        let origin: Origin = "http://[::1]:8081/".parse().unwrap();
        assert_eq!((origin.host.as_str(), origin.port), ("::1", 8081));
        assert_eq!(origin.to_string(), "http://[::1]:8081");
        assert_eq!("http://orders".parse::<Origin>().unwrap().port, 80);
        let origin: Origin = "grpc://orders:8081".parse().unwrap();
        assert_eq!((origin.carrier, origin.port), (Carrier::Grpc, 8081));
        assert_eq!(origin.to_string(), "grpc://orders:8081");
        for bad in [
            "",
            "orders:8081",
            "https://orders",
            "grpcs://a:1",
            "http://a/b",
            "http://u@a",
            "http://:80",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
