//! One instance of a remote service: its connections, kept alive between requests.
//!
//! The pool is our own because it has to know what a library's pool hides: whether a request that
//! failed was ever sent. What was not sent may go to another instance, whatever it is; and a
//! connection goes back by the end of the response's body, with no task per request to wait for it.

use std::{
    collections::VecDeque,
    fmt, io,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{Request, Response, header::HOST},
};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use crate::{Origin, balance::Load, ejection::Ejection};

/// How long an idle connection is kept: less than any service does, so that a request seldom meets
/// a connection that is being closed.
const KEEP: Duration = Duration::from_secs(10);
/// The most idle connections to one instance.
const IDLE: usize = 1024;

/// A connection to an instance.
pub(crate) type Connection = SendRequest<Body>;

/// Why an instance has not answered.
pub(crate) enum Lost {
    /// Nothing was sent: here it is again.
    Unsent(Box<Request<Body>>),
    /// The connection broke after some was sent. One that was used before may have been closing
    /// just then, which says nothing about the instance.
    Broken { reused: bool },
    /// No answer by the deadline.
    Late,
}

/// One instance of a remote service.
pub(crate) struct Instance {
    pub(crate) origin: Origin,
    /// Which of the addresses of the origin's name, if that stands for several instances.
    pub(crate) address: Option<IpAddr>,
    pub(crate) ejection: Ejection,
    requests: AtomicUsize,
    sockets: AtomicUsize,
    /// Idle connections and since when, the newest last.
    idle: Mutex<VecDeque<(Instant, Connection)>>,
    connect: Duration,
}

impl Instance {
    pub(crate) fn new(origin: Origin, connect: Duration) -> Self {
        Self {
            origin,
            address: None,
            ejection: Ejection::default(),
            requests: AtomicUsize::new(0),
            sockets: AtomicUsize::new(0),
            idle: Mutex::default(),
            connect,
        }
    }

    /// Another instance of the same name, at this address, or at whichever address answers.
    pub(crate) fn sibling(&self, address: Option<IpAddr>) -> Self {
        Self { address, ..Self::new(self.origin.clone(), self.connect) }
    }

    /// How many of the kind are under way here.
    pub(crate) fn load(&self, load: Load) -> &AtomicUsize {
        match load {
            Load::Requests => &self.requests,
            Load::Sockets => &self.sockets,
        }
    }

    /// Sends a request and waits for the response's head. With `fresh`, on a new connection.
    pub(crate) async fn exchange(
        &self,
        mut request: Request<Body>,
        fresh: bool,
        deadline: Instant,
    ) -> Result<(Response<Incoming>, Connection), Lost> {
        request.headers_mut().entry(HOST).or_insert_with(|| self.origin.authority.clone());
        loop {
            let idle = if fresh { None } else { self.idle() };
            let reused = idle.is_some();
            let mut connection = match idle {
                Some(idle) => idle,
                None => match self.connect().await {
                    Ok(connection) => connection,
                    Err(error) => {
                        tracing::debug!(instance = %self, %error, "can't connect");
                        return Err(Lost::Unsent(Box::new(request)));
                    }
                },
            };
            match timeout_at(deadline, connection.try_send_request(request)).await {
                Ok(Ok(response)) => return Ok((response, connection)),
                Ok(Err(mut error)) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    Some(unsent) => return Err(Lost::Unsent(Box::new(unsent))),
                    None => {
                        tracing::debug!(instance = %self, error = %error.error(), "broken");
                        return Err(Lost::Broken { reused });
                    }
                },
                Err(_) => return Err(Lost::Late),
            }
        }
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        let Origin { host, port, .. } = &self.origin;
        let open = async {
            match self.address {
                Some(address) => TcpStream::connect((address, *port)).await,
                None => TcpStream::connect((host.as_str(), *port)).await,
            }
        };
        let stream = timeout(self.connect, open)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// Keeps a connection whose response has been read to the end.
    pub(crate) fn keep(&self, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while idle.front().is_some_and(|(since, _)| now - *since > KEEP) || idle.len() >= IDLE {
            idle.pop_front();
        }
        idle.push_back((now, connection));
    }

    /// Whether a kept connection is still open.
    pub(crate) fn is_connected(&self) -> bool {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.iter().any(|(_, connection)| !connection.is_closed())
    }

    /// Takes the newest kept connection that can be used right now. One that is not ready, for the
    /// moment until its task has seen the end of the last response, stays for later.
    fn idle(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        for at in (0..idle.len()).rev() {
            let (since, connection) = &idle[at];
            if now - *since > KEEP {
                idle.drain(..=at);
                return None;
            }
            if connection.is_closed() {
                idle.remove(at);
            } else if connection.is_ready() {
                return idle.remove(at).map(|(_, connection)| connection);
            }
        }
        None
    }
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
