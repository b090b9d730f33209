//! Reading a Kafka URL. Nothing in it is ignored: what can't be honoured is refused, with what to
//! write instead.

use percent_encoding::percent_decode_str;

use crate::{
    BrokerError,
    broker::{parameters, pem},
};

/// The parameters of a URL. Those that Kafka's clients have too keep their names.
const PARAMETERS: [&str; 6] = [
    "partitions",
    "security.protocol",
    "sasl.mechanism",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
];
const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
/// The number of partitions that a topic can be made with.
const PARTITION_RANGE: std::ops::RangeInclusive<i32> = 1..=1000;

/// What a URL says.
pub(super) struct KafkaUrl {
    /// `host:port,host:port`.
    pub(super) servers: String,
    /// Partitions of a topic that is made, if the URL says.
    pub(super) partitions: Option<i32>,
    /// How to reach the servers and who asks, as settings of librdkafka.
    pub(super) security: Vec<(&'static str, String)>,
}

/// `kafka://host:port,host:port`, with `user:password@` in front of the hosts and parameters at the
/// end. An error does not repeat the URL: it may hold a password.
pub(super) fn parse(url: &str) -> Result<KafkaUrl, BrokerError> {
    let rest = url.strip_prefix("kafka://").unwrap_or_default();
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (user, servers) = match address.rsplit_once('@') {
        Some((user, servers)) => (Some(user), servers),
        None => (None, address),
    };
    let strange = |c: char| c.is_whitespace() || "/?#".contains(c);
    if servers.split(',').any(|server| server.contains(strange) || !is_server(server)) {
        return Err(invalid("kafka: takes a list of host:port"));
    }
    let parameters = parameters::read(query, &PARAMETERS)?;
    let get = |name| parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value);
    let partitions = match get("partitions") {
        Some(number) => {
            let number = number.parse().ok().filter(|number| PARTITION_RANGE.contains(number));
            Some(number.ok_or_else(|| invalid("partitions takes 1 to 1000"))?)
        }
        None => None,
    };

    let protocol = get("security.protocol").map(str::to_ascii_lowercase);
    let protocol = one_of("security.protocol", protocol, &PROTOCOLS)?.unwrap_or("plaintext");
    let mechanism = get("sasl.mechanism").map(str::to_ascii_uppercase);
    let mechanism = one_of("sasl.mechanism", mechanism, &MECHANISMS)?;
    let mut security = vec![("security.protocol", protocol.to_owned())];
    if protocol.starts_with("sasl_") {
        let (Some(mechanism), Some((name, password))) = (mechanism, user.and_then(credentials))
        else {
            return Err(invalid(&format!(
                "security.protocol={protocol} needs a user, a password and a mechanism: \
                 kafka://user:password@host:port?security.protocol={protocol}&\
                 sasl.mechanism=SCRAM-SHA-512 (or SCRAM-SHA-256, or PLAIN)"
            )));
        };
        security.push(("sasl.mechanism", mechanism.to_owned()));
        security.push(("sasl.username", name));
        security.push(("sasl.password", password));
    } else if mechanism.is_some() || user.is_some() {
        return Err(invalid(
            "a user, a password or sasl.mechanism has an effect only with \
             security.protocol=sasl_ssl or sasl_plaintext",
        ));
    }
    security.extend(tls(protocol.ends_with("ssl"), get)?);
    Ok(KafkaUrl { servers: servers.to_owned(), partitions, security })
}

/// The settings of TLS. The server's certificate and name are always checked.
fn tls<'a>(
    spoken: bool,
    get: impl Fn(&'static str) -> Option<&'a str>,
) -> Result<Vec<(&'static str, String)>, BrokerError> {
    let mut settings = Vec::new();
    for (name, kind) in [
        ("ssl.ca.location", "CERTIFICATE"),
        ("ssl.certificate.location", "CERTIFICATE"),
        ("ssl.key.location", "PRIVATE KEY"),
    ] {
        let Some(path) = get(name) else { continue };
        if !spoken {
            let reason = "has an effect only with security.protocol=ssl or sasl_ssl";
            return Err(invalid(&format!("{name} {reason}")));
        }
        pem::read(name, path, kind)?;
        settings.push((name, path.to_owned()));
    }
    if get("ssl.certificate.location").is_some() != get("ssl.key.location").is_some() {
        return Err(invalid("ssl.certificate.location and ssl.key.location go together"));
    }
    if spoken && get("ssl.ca.location").is_none() {
        // The certificates that the system trusts, wherever it keeps them.
        settings.push(("ssl.ca.location", "probe".to_owned()));
    }
    Ok(settings)
}

fn one_of(
    name: &str,
    given: Option<String>,
    known: &[&'static str],
) -> Result<Option<&'static str>, BrokerError> {
    let Some(given) = given else { return Ok(None) };
    let found = known.iter().find(|known| **known == given).copied();
    found.map(Some).ok_or_else(|| {
        let known = known.join(", ");
        invalid(&format!("{name}={given} is not supported; there are: {known}"))
    })
}

/// `host`, `host:port` or `[address]:port`.
fn is_server(text: &str) -> bool {
    match text.rsplit_once(':').filter(|_| !text.ends_with(']')) {
        Some((host, port)) => !host.is_empty() && port.parse::<u16>().is_ok(),
        None => !text.is_empty(),
    }
}

/// `user:password`, percent-encoded.
fn credentials(text: &str) -> Option<(String, String)> {
    let decode = |part| percent_decode_str(part).decode_utf8().ok().map(String::from);
    let (user, password) = text.split_once(':')?;
    let complete = !user.is_empty() && !password.is_empty();
    complete.then_some((decode(user)?, decode(password)?))
}

fn invalid(reason: &str) -> BrokerError {
    BrokerError::InvalidUrl(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> Vec<(&'static str, String)> {
        parse(url).unwrap().security
    }

    #[test]
    fn a_plain_url_speaks_plain_text() {
        let url = parse("kafka://a:1,b:2?partitions=12").unwrap();
        assert_eq!((url.servers.as_str(), url.partitions), ("a:1,b:2", Some(12)));
        assert_eq!(url.security, [("security.protocol", "plaintext".to_owned())]);
    }

    #[test]
    fn names_and_passwords_are_decoded() {
        let url =
            "kafka://me%40x:p%3A%20+s@a:1?security.protocol=SASL_SSL&sasl.mechanism=scram-sha-256";
        let expected = [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-256"),
            ("sasl.username", "me@x"),
            ("sasl.password", "p: +s"),
            ("ssl.ca.location", "probe"),
        ];
        assert_eq!(settings(url), expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn what_a_url_asks_for_in_vain_is_an_error() {
        for (query, reason) in [
            ("tls=true", "unknown parameter \"tls\"; there are: partitions, security.protocol"),
            ("security.protocol=tls", "there are: plaintext, ssl, sasl_plaintext, sasl_ssl"),
            ("security.protocol=ssl&security.protocol=ssl", "given twice"),
            ("security.protocol=sasl_ssl&sasl.mechanism=GSSAPI", "PLAIN, SCRAM-SHA-256"),
            ("security.protocol=sasl_ssl&sasl.mechanism=PLAIN", "needs a user"),
            ("sasl.mechanism=PLAIN", "only with security.protocol=sasl_ssl"),
            ("ssl.ca.location=/etc/ca.pem", "only with security.protocol=ssl"),
            ("security.protocol=ssl&ssl.ca.location=/nowhere", "can't read /nowhere"),
            ("security.protocol=ssl&ssl.ca.location=/dev/null", "holds no CERTIFICATE"),
            ("security.protocol=ssl&ssl.key.location=/dev/null", "holds no PRIVATE KEY"),
        ] {
            let said = parse(&format!("kafka://a:1?{query}")).err().unwrap().to_string();
            assert!(said.contains(reason), "{query}: {said}");
        }
        let said = parse("kafka://me:secret@a:1").err().unwrap().to_string();
        assert!(said.contains("only with security.protocol=sasl_ssl"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }

    #[test]
    fn a_user_needs_a_password_and_a_mechanism() {
        for url in [
            "kafka://me:secret@a:1?security.protocol=sasl_ssl",
            "kafka://me@a:1?security.protocol=sasl_ssl&sasl.mechanism=PLAIN",
            "kafka://:secret@a:1?security.protocol=sasl_ssl&sasl.mechanism=PLAIN",
        ] {
            let said = parse(url).err().unwrap().to_string();
            assert!(said.contains("kafka://user:password@host:port"), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
