//! One instance of a remote service: where it is, how it has been doing, and what it is busy with.

use std::{
    error::Error as _,
    fmt, io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{
        Request, Response, Uri,
        uri::{Authority, Parts, Scheme},
    },
};
use gozon_seam::net::TcpStream;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioIo, TokioTimer},
};
use tokio::time::{Instant, timeout, timeout_at};
use tower::{service_fn, util::BoxCloneSyncService};

#[cfg(feature = "simulation")]
use gozon_seam::Executor as TokioExecutor;
#[cfg(not(feature = "simulation"))]
use hyper_util::rt::TokioExecutor;

use crate::{channel::Channels, ejection::Ejection, origin::Origin};

/// How long an idle connection is kept: less than any service does, so that a request seldom meets
/// a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most idle connections to one instance.
const MAX_IDLE_CONNECTIONS: usize = 1024;

/// Connections to instances, kept alive between requests. A request that was surely not sent,
/// because a kept connection turned out to be closed, is sent again on another one.
pub(crate) type Connections = Client<Connector, Full<Bytes>>;

type Connector = BoxCloneSyncService<Uri, TokioIo<TcpStream>, io::Error>;

/// No connection yet; opening one may take `limit`, looking up the name included.
pub(crate) fn connections(limit: Duration) -> Connections {
    let connector = service_fn(move |uri: Uri| async move {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = connect(host, uri.port_u16().unwrap_or(80), limit).await?;
        Ok(TokioIo::new(stream))
    });
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .build(BoxCloneSyncService::new(connector))
}

/// Opens a connection within `limit`, looking up the name included.
async fn connect(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let stream = timeout(limit, TcpStream::connect((host, port))).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Why an instance has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// Nothing was sent.
    Unsent,
    /// The connection broke after some was sent, or what came back was not HTTP.
    Broken,
    /// No answer by the deadline.
    Timeout,
}

/// What is counted per instance, each kind on its own: many idle sockets on one instance must not
/// drive all the requests to another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    Requests,
    Sockets,
}

/// One instance of a remote service.
pub(crate) struct Instance {
    pub(crate) origin: Origin,
    /// Which of the addresses of the origin's name, if that stands for several instances.
    pub(crate) address: Option<IpAddr>,
    pub(crate) ejection: Ejection,
    /// Its connections, if gRPC is spoken to it.
    pub(crate) channels: Channels,
    authority: Authority,
    requests: AtomicUsize,
    sockets: AtomicUsize,
}

impl Instance {
    pub(crate) fn new(origin: Origin) -> Self {
        let authority = origin.authority.clone();
        Self::with(origin, None, authority)
    }

    /// Another instance of the same name, at this address, or at any of its addresses.
    pub(crate) fn sibling(&self, address: Option<IpAddr>) -> Self {
        let origin = self.origin.clone();
        let authority = match address {
            None => origin.authority.clone(),
            Some(IpAddr::V4(ip)) => authority(&format!("{ip}:{}", origin.port), &origin),
            Some(IpAddr::V6(ip)) => authority(&format!("[{ip}]:{}", origin.port), &origin),
        };
        Self::with(origin, address, authority)
    }

    fn with(origin: Origin, address: Option<IpAddr>, authority: Authority) -> Self {
        Self {
            origin,
            address,
            ejection: Ejection::default(),
            channels: Channels::default(),
            authority,
            requests: AtomicUsize::new(0),
            sockets: AtomicUsize::new(0),
        }
    }

    /// How many of the kind are under way here.
    pub(crate) fn load(&self, load: Load) -> &AtomicUsize {
        match load {
            Load::Requests => &self.requests,
            Load::Sockets => &self.sockets,
        }
    }

    /// Sends a request and waits for the response's head.
    pub(crate) async fn send(
        &self,
        connections: &Connections,
        mut request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Response<Incoming>, SendError> {
        *request.uri_mut() = self.uri(&request).ok_or(SendError::Unsent)?;
        match timeout_at(deadline, connections.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                tracing::debug!(instance = %self, error = ?error.source(), "{error}");
                Err(if was_sent(&error) { SendError::Broken } else { SendError::Unsent })
            }
            Err(_) => Err(SendError::Timeout),
        }
    }

    /// A request's URI at this instance.
    pub(crate) fn uri<B>(&self, request: &Request<B>) -> Option<Uri> {
        let mut uri = Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = request.uri().path_and_query().cloned();
        Uri::from_parts(uri).ok()
    }

    /// Whether it accepts connections.
    pub(crate) async fn reachable(&self, limit: Duration) -> io::Result<()> {
        self.connect(limit).await.map(drop)
    }

    /// Opens a connection within `limit`.
    pub(crate) async fn connect(&self, limit: Duration) -> io::Result<TcpStream> {
        let Origin { host, port, .. } = &self.origin;
        let address = self.address.map(|address| address.to_string());
        connect(address.as_deref().unwrap_or(host), *port, limit).await
    }
}

fn authority(text: &str, origin: &Origin) -> Authority {
    text.parse().unwrap_or_else(|_| origin.authority.clone())
}

/// Whether any of the request may have reached the service. hyper calls a request canceled only
/// if its connection never took it.
fn was_sent(error: &legacy::Error) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<hyper::Error>());
    !error.is_connect() && !cause.is_some_and(hyper::Error::is_canceled)
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)?;
        self.address.map_or(Ok(()), |address| write!(f, " at {address}"))
    }
}

/// A request or socket under way at an instance, counted until it is dropped.
pub(crate) struct Lease {
    pub(crate) instance: Arc<Instance>,
    load: Load,
}

impl Lease {
    pub(crate) fn take(instance: &Arc<Instance>, load: Load) -> Self {
        instance.load(load).fetch_add(1, Relaxed);
        Self { instance: instance.clone(), load }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.instance.load(self.load).fetch_sub(1, Relaxed);
    }
}
