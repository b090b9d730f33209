//! A PostgreSQL connection whose statements wait until a test lets each of them through.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot},
    task::JoinHandle,
};

use super::wire::{self, Flight, Statements};

/// Replaces a part of a statement's text, to put a fault into it.
pub type Rewrite = (&'static str, &'static str);

/// What becomes of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is run, and its answer comes back.
    Pass,
    /// The connection ends before it reaches the server.
    LoseStatement,
    /// It is run, and the connection ends before its answer comes back.
    LoseAnswer,
}

/// Stands between one process and its database, which it may use by one connection.
pub(super) struct Gate {
    pub port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// Where the process's connection is.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// The server's process for the connection.
    pub pid: i32,
    /// The statement that waits at the gate.
    pub held: Option<Flight>,
    /// Whether a statement is at the server.
    pub running: bool,
    /// Whether a transaction is open.
    pub in_transaction: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Told of each change, for all gates of a test together.
    changed: Arc<Notify>,
    rewrites: Mutex<Vec<Rewrite>>,
}

#[derive(Default)]
struct State {
    line: Line,
    /// How many connections there were.
    connections: u64,
    /// Whether statements wait.
    closed: bool,
    release: Option<oneshot::Sender<Fate>>,
    lose_answer: bool,
    /// Whether a cancelled statement is to look as if its wait for a lock had ended.
    timed_out: bool,
}

impl Gate {
    /// A gate to the server at `target`, `host:port`. It is open.
    pub async fn to(target: String, changed: Arc<Notify>, rewrites: Vec<Rewrite>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a local address").port();
        let rewrites = Mutex::new(rewrites);
        let shared = Arc::new(Shared { state: Mutex::default(), changed, rewrites });
        let accepting = tokio::spawn(accept(listener, target, Arc::clone(&shared)));
        Self { port, shared, accepting }
    }

    /// Where the process's connection is.
    pub fn line(&self) -> Line {
        self.shared.lock().line.clone()
    }

    /// Replaces parts of all statements that are prepared from now on.
    pub fn rewrite(&self, rewrites: &[Rewrite]) {
        let mut all = self.shared.rewrites.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(rewrites);
    }

    /// From now on each statement waits.
    pub fn close(&self) {
        self.shared.lock().closed = true;
    }

    /// From now on no statement waits.
    pub fn open(&self) {
        self.shared.lock().closed = false;
        self.release(Fate::Pass);
    }

    /// Lets the waiting statement meet its fate.
    pub fn release(&self, fate: Fate) {
        let mut state = self.shared.lock();
        if let Some(release) = state.release.take() {
            state.line.held = None;
            state.line.running = true;
            state.lose_answer = fate == Fate::LoseAnswer;
            let _ = release.send(fate);
        }
    }

    /// Makes the next cancelled statement look as if its wait for a lock had ended.
    pub fn time_out(&self) {
        self.shared.lock().timed_out = true;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }

    fn rewritten(&self, sql: &str) -> String {
        let rewrites = self.rewrites.lock().unwrap_or_else(PoisonError::into_inner);
        rewrites.iter().fold(sql.to_owned(), |sql, (find, replace)| sql.replace(find, replace))
    }
}

async fn accept(listener: TcpListener, target: String, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let (target, shared) = (target.clone(), Arc::clone(&shared));
        let mut number = 0;
        shared.update(|state| {
            state.connections += 1;
            number = state.connections;
        });
        tokio::spawn(async move {
            let _ = carry(client, &target, &shared).await;
            shared.update(|state| {
                if state.connections == number {
                    state.line = Line::default();
                }
            });
        });
    }
}

/// Carries one connection, until one of its ends or a [`Fate`] ends it.
async fn carry(client: TcpStream, target: &str, shared: &Shared) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    tokio::select! {
        ended = statements(from_client, to_server, shared) => ended,
        ended = answers(from_server, to_client, shared) => ended,
    }
}

async fn statements(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<()> {
    wire::pass_startup(&mut client, &mut server).await?;
    let mut known = Statements::default();
    loop {
        let (bytes, flight) =
            wire::read_flight(&mut client, &mut known, |sql| shared.rewritten(sql)).await?;
        let released = flight.and_then(|flight| {
            let mut state = shared.lock();
            // A failed transaction has let go of its locks already.
            let (release, released) = oneshot::channel();
            if !state.closed || flight.is_free(state.line.in_transaction) {
                return None;
            }
            state.line.held = Some(flight);
            state.release = Some(release);
            Some(released)
        });
        if let Some(released) = released {
            shared.changed.notify_one();
            if released.await.unwrap_or(Fate::Pass) == Fate::LoseStatement {
                return Ok(());
            }
        }
        wire::write(&mut server, &bytes).await?;
    }
}

async fn answers(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<()> {
    let mut waiting = Vec::new();
    loop {
        let mut message = wire::read_message(&mut server).await?;
        let mut lose = false;
        if let Some(pid) = message.backend_pid() {
            shared.update(|state| state.line.pid = pid);
        }
        if shared.lock().timed_out && message.as_lock_timeout() {
            shared.update(|state| state.timed_out = false);
        }
        let ready = message.transaction_status();
        if let Some(status) = ready {
            shared.update(|state| {
                lose = std::mem::take(&mut state.lose_answer);
                state.line.running = false;
                state.line.in_transaction = status == b'T';
            });
        }
        waiting.extend_from_slice(&message.bytes);
        if lose {
            return Ok(());
        }
        // Whole answers only: half of one would not be lost.
        if ready.is_some() || message.is_of_login() {
            wire::write(&mut client, &waiting).await?;
            waiting.clear();
        }
    }
}
