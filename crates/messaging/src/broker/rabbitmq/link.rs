//! A connection to RabbitMQ: opened when it is first needed, and again when it broke.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lapin::{
    Channel, Connection, ConnectionProperties, runtime,
    tcp::{AMQPUriTcpExt as _, OwnedTLSConfig},
    uri::AMQPUri,
};
use tokio::time::timeout;

use crate::{
    BrokerError,
    broker::{parameters, pem},
};

/// How long reaching the server's port may take.
const CONNECT: Duration = Duration::from_secs(3);
/// Both sides speak at least this often, in seconds. A connection that was silent for twice as
/// long is taken for dead.
const HEARTBEAT: u16 = 10;

/// The parameters of a URL, by the names that RabbitMQ's own clients have for them.
const PARAMETERS: [&str; 5] =
    ["heartbeat", "frame_max", "channel_max", "auth_mechanism", "cacertfile"];

/// Where a server is, and whose certificates are trusted besides the system's.
#[derive(Clone, Debug)]
pub(super) struct Address {
    uri: AMQPUri,
    tls: OwnedTLSConfig,
}

/// A connection that is there when it is needed.
pub(super) struct Link {
    address: Address,
    name: &'static str,
    connection: Mutex<Option<Arc<Connection>>>,
    /// Held while connecting, so that all who wait share the one connection.
    connecting: tokio::sync::Mutex<()>,
}

/// A channel and the connection that it is on.
pub(super) struct Open {
    pub(super) channel: Channel,
    /// An open channel keeps its connection.
    connection: Arc<Connection>,
}

impl Open {
    /// Whether it works, as far as is known here.
    pub(super) fn works(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

impl Link {
    /// A link to the server at `address`, not connected yet; `name` is what the server's operator
    /// sees.
    pub(super) fn new(address: Address, name: &'static str) -> Self {
        let (connection, connecting) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { address, name, connection, connecting }
    }

    /// Opens a channel; connects first if need be.
    pub(super) async fn open(&self) -> Result<Open, BrokerError> {
        let connection = self.connected().await?;
        let channel = connection.create_channel().await?;
        Ok(Open { channel, connection })
    }

    /// Drops the connection; the next [`Link::open`] makes another. What is still open on this one
    /// goes on for as long as it can. One that the server [blocks](Link::check) is kept: it works
    /// again when the alarm ends, and until then another one would be blocked too.
    pub(super) fn hang_up(&self) {
        let mut current = self.current();
        if !current.as_ref().is_some_and(|connection| is_blocked(connection)) {
            current.take();
        }
    }

    /// Whether the server takes what is published: it stops reading from connections that publish
    /// while it is short of memory or disk.
    pub(super) fn check(&self) -> Result<(), BrokerError> {
        if self.current().as_ref().is_some_and(|connection| is_blocked(connection)) {
            let why = "it holds publishers back until its memory or disk alarm ends";
            return Err(BrokerError::Away(why.to_owned()));
        }
        Ok(())
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self) -> Option<Arc<Connection>> {
        self.current().clone().filter(|connection| connection.status().connected())
    }

    async fn connected(&self) -> Result<Arc<Connection>, BrokerError> {
        if let Some(connection) = self.working() {
            return Ok(connection);
        }
        let _alone = self.connecting.lock().await;
        if let Some(connection) = self.working() {
            return Ok(connection);
        }
        let connection = Arc::new(self.connect().await?);
        *self.current() = Some(Arc::clone(&connection));
        Ok(connection)
    }

    async fn connect(&self) -> Result<Connection, BrokerError> {
        let Address { uri, tls } = &self.address;
        let authority = &uri.authority;
        let away = |error: lapin::Error| match BrokerError::from(error) {
            BrokerError::Away(why) => {
                BrokerError::Away(format!("{}:{}: {why}", authority.host, authority.port))
            }
            refusal => refusal,
        };
        let properties = ConnectionProperties::default().with_connection_name(self.name.into());
        // The limit is in here, because the connection's own thread would go on trying.
        let tls = tls.clone();
        let reach = move |uri: AMQPUri, runtime| {
            let tls = tls.clone();
            async move {
                timeout(CONNECT, uri.connect_with_config_async(tls.as_ref(), &runtime))
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
                    .map_err(lapin::Error::from)
            }
        };
        let runtime = runtime::default_runtime().map_err(away)?;
        Connection::connector(uri.clone(), runtime, reach, properties).await.map_err(away)
    }
}

fn is_blocked(connection: &Connection) -> bool {
    connection.status().connected() && connection.status().blocked()
}

/// Reads an AMQP URL. The error does not repeat it: it may hold a password.
pub(super) fn parse(url: &str) -> Result<Address, BrokerError> {
    let invalid = |what: &str| BrokerError::InvalidUrl(what.to_owned());
    let mut uri: AMQPUri = url.parse().map_err(|_| {
        invalid(
            "the broker's URL can't be read; it looks like amqp://user:password@host:5672/vhost",
        )
    })?;
    let mut tls = OwnedTLSConfig::default();
    if uri.authority.host.contains([',', ' ']) {
        return Err(invalid("an amqp URL names one host"));
    }
    if url.contains('#') {
        return Err(invalid("write # as %23"));
    }
    let query = url.split_once('?').map_or("", |(_, query)| query);
    for (name, value) in parameters::read(query, &PARAMETERS)? {
        if name == "cacertfile" {
            if !url.starts_with("amqps:") {
                return Err(invalid("cacertfile has an effect only with amqps://"));
            }
            tls.cert_chain = Some(pem::read(name, &value, "CERTIFICATE")?);
        }
    }
    // lapin takes an IPv6 address for localhost.
    let host = url.split('/').nth(2).and_then(|authority| authority.rsplit('@').next());
    if let Some((address, _)) = host.and_then(|host| host.strip_prefix('[')?.split_once(']')) {
        address.clone_into(&mut uri.authority.host);
    }
    // A slash at the end is hardly meant as the virtual host without a name.
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    Ok(Address { uri, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_as_it_is_meant() {
        let parse = |url| parse(url).unwrap().uri;
        let uri = parse("amqp://me:p%40ss@rabbit:5673/%2f");
        assert_eq!((uri.authority.host.as_str(), uri.authority.port), ("rabbit", 5673));
        assert_eq!(uri.authority.userinfo.password, "p@ss");
        assert_eq!((uri.vhost.as_str(), uri.query.heartbeat), ("/", Some(HEARTBEAT)));
        assert_eq!(parse("amqp://rabbit").vhost, "/");
        assert_eq!(parse("amqp://rabbit/").vhost, "/");
        assert_eq!(parse("amqp://rabbit/shop").vhost, "shop");
        assert_eq!(parse("amqp://me:you@[::1]:5673/shop").authority.host, "::1");
        assert_eq!(parse("amqp://rabbit?heartbeat=5").query.heartbeat, Some(5));
    }

    #[test]
    fn an_error_does_not_show_the_password() {
        for url in ["amqp:me:secret@rabbit", "amqp://me:secret@rabbit:port", "amqp://me:secret@"] {
            let error = parse(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_a_url_asks_for_in_vain_is_an_error() {
        for (url, reason) in [
            ("amqp://a,b/shop", "one host"),
            ("amqp://rabbit/shop#x", "%23"),
            ("amqp://rabbit?heartbeat=5&heartbeat=6", "twice"),
            ("amqps://rabbit?verify=verify_none", "unknown parameter \"verify\""),
            ("amqp://rabbit?connection_timeout=5", "unknown parameter \"connection_timeout\""),
            ("amqp://rabbit?cacertfile=/dev/null", "only with amqps://"),
            ("amqps://rabbit?cacertfile=/nowhere", "can't read /nowhere"),
            ("amqps://rabbit?cacertfile=/dev/null", "holds no CERTIFICATE"),
        ] {
            let said = parse(url).unwrap_err().to_string();
            assert!(said.contains(reason), "{url}: {said}");
        }
    }
}
