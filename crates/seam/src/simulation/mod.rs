//! The simulated process: its tasks run until it is killed, and stand still while it is paused.

pub mod net;
mod task;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::Duration,
};

pub use task::{Executor, spawn};
pub use tokio::time::Instant;

/// What the simulator decides. There is one world to a thread.
pub trait World {
    /// For how long a task that was woken waits for a processor.
    fn lag(&self) -> Duration;
    /// What becomes of a new connection to a port.
    fn connect(&self, port: u16) -> Connect;
    /// What becomes of a statement on a database.
    fn statement(&self, database: &str, sql: &str) -> Fate;
    /// The time of a database's host, in microseconds since the epoch.
    fn database_time(&self, database: &str) -> i64;
    /// The time of the machine of the process that asks, in microseconds since the epoch.
    fn machine_time(&self) -> i64;
    /// The next 64 random bits.
    fn random(&self) -> u64;
    /// The name of the fault that is put back, or nothing.
    fn mutation(&self) -> &str;
    /// Whether units of work lock what they read from the start, as they do on SQLite, or only when
    /// they commit, as on PostgreSQL.
    fn locks_early(&self) -> bool;
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connect {
    /// Whether nobody answers.
    pub refused: bool,
    /// How long it takes.
    pub delay: Duration,
    /// The connection breaks once so many bytes have come back.
    pub breaks_after: Option<usize>,
}

/// What becomes of a statement.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    /// Time until it is run.
    pub before: Duration,
    /// What happens then.
    pub end: End,
    /// Time until its answer arrives.
    pub after: Duration,
}

/// How a statement ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is run, and its answer arrives.
    Answered,
    /// It is not run; the database answers with this code.
    Refused(&'static str),
    /// It is not run, and the connection is lost.
    Lost,
    /// It is run, and the connection is lost before the answer arrives.
    AnswerLost,
}

/// A process of the simulated fleet. A restart makes another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process(usize);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    Dead,
}

struct Record {
    name: &'static str,
    state: State,
    tasks: BTreeMap<u64, Arc<dyn task::Kill>>,
    /// Tasks that were woken during a pause.
    parked: Vec<Waker>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<dyn World>>> = const { RefCell::new(None) };
    static CURRENT: Cell<Option<Process>> = const { Cell::new(None) };
    static PROCESSES: RefCell<Vec<Record>> = const { RefCell::new(Vec::new()) };
    static NEXT_TASK: Cell<u64> = const { Cell::new(0) };
}

/// Makes `world` the one of this thread, without any process; or ends it.
pub fn enter(world: Option<Rc<dyn World>>) {
    PROCESSES.take();
    NEXT_TASK.set(0);
    net::clear();
    WORLD.set(world);
}

/// Asks the world of this thread, if there is one.
pub fn world<T>(ask: impl FnOnce(&dyn World) -> T) -> Option<T> {
    let world = WORLD.with_borrow(Clone::clone)?;
    Some(ask(&*world))
}

/// Whether a fault that was mended is put back.
#[must_use]
pub fn is_mutated(name: &str) -> bool {
    world(|world| world.mutation() == name).unwrap_or(false)
}

/// The process whose task runs now.
#[must_use]
pub fn current() -> Option<Process> {
    CURRENT.get()
}

impl Process {
    /// A process without tasks.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        PROCESSES.with_borrow_mut(|all| {
            all.push(Record {
                name,
                state: State::Running,
                tasks: BTreeMap::new(),
                parked: Vec::new(),
            });
            Self(all.len() - 1)
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        PROCESSES.with_borrow(|all| all[self.0].name)
    }

    /// Runs `work` as a part of this process: what it spawns belongs to it.
    pub fn run<T>(self, work: impl FnOnce() -> T) -> T {
        struct Restore(Option<Process>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self)));
        work()
    }

    fn with<T>(self, look: impl FnOnce(&mut Record) -> T) -> T {
        PROCESSES.with_borrow_mut(|all| look(&mut all[self.0]))
    }

    /// Ends it as `kill -9` does: no task of it goes on, and its connections are closed.
    pub fn kill(self) {
        let tasks = self.with(|record| {
            record.state = State::Dead;
            std::mem::take(&mut record.tasks)
        });
        self.run(|| tasks.into_values().for_each(|task| task.kill()));
    }

    /// Stops every task of it, until [`Process::resume`].
    pub fn pause(self) {
        self.with(|record| {
            if record.state == State::Running {
                record.state = State::Paused;
            }
        });
    }

    /// Lets it go on.
    pub fn resume(self) {
        let woken = self.with(|record| {
            if record.state == State::Paused {
                record.state = State::Running;
            }
            std::mem::take(&mut record.parked)
        });
        woken.into_iter().for_each(Waker::wake);
    }

    /// Whether it was neither killed nor paused.
    #[must_use]
    pub fn is_running(self) -> bool {
        self.with(|record| record.state == State::Running)
    }
}
