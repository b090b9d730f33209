//! A wire between a client and a server that can be cut and frozen.

use std::sync::Arc;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Passes TCP connections on to a server, as long as the test lets it.
pub struct Wire {
    port: u16,
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Cut,
    Frozen,
}

impl Wire {
    /// A wire to the server at `target`, `host:port`.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a local address").port();
        let state = Arc::new(watch::Sender::new(State::Open));
        let task = tokio::spawn(accept(listener, target.to_owned(), Arc::clone(&state)));
        Self { port, state, task }
    }

    /// A wire to the server of `url`, and the URL by which to reach it through the wire.
    ///
    /// # Panics
    /// If the URL names no host and port.
    pub async fn through(url: &str) -> (Self, String) {
        let (before, rest) = url.split_once("://").expect("a URL");
        let authority = rest.split(['/', '?']).next().unwrap_or(rest);
        let target = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let wire = Self::to(target).await;
        let through = rest.replacen(target, &format!("127.0.0.1:{}", wire.port), 1);
        (wire, format!("{before}://{through}"))
    }

    /// Ends every connection, and new ones as soon as they are made.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Passes nothing on any more, but leaves every connection open.
    pub fn freeze(&self) {
        self.state.send_replace(State::Frozen);
    }

    /// Passes everything on again. What was frozen stays lost.
    pub fn mend(&self) {
        self.state.send_replace(State::Open);
    }
}

async fn accept(listener: TcpListener, target: String, state: Arc<watch::Sender<State>>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(pass_on(client, target.clone(), state.subscribe()));
    }
}

async fn pass_on(mut client: TcpStream, target: String, mut state: watch::Receiver<State>) {
    let now = *state.borrow_and_update();
    if now == State::Open {
        let Ok(mut server) = TcpStream::connect(&target).await else { return };
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => return,
            _ = state.changed() => {}
        }
    }
    // Cut: both ends close here. Frozen: the client's stays open, and hears nothing.
    let _ = state.wait_for(|state| *state != State::Frozen).await;
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.send_replace(State::Cut);
        self.task.abort();
    }
}
