//! Every order in which the statements of some processes can reach their database.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use gozon_store::Db;
use sqlx::{Connection as _, PgConnection};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    gate::{Fate, Gate, Line, Rewrite},
    wire::Flight,
};
use crate::TestDb;

/// How long an answer is waited for until the server is asked whether the statement waits for a lock.
const ANSWER_WAIT: Duration = Duration::from_millis(1);
/// A process that does nothing for so long, and waits for nothing, is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Our sessions give up on a lock after a while. Here only the test ends a wait.
const NO_LOCK_TIMEOUT: Rewrite = ("lock_timeout = '250ms'", "lock_timeout = '1h'");

/// What one process does in a run.
pub type Process = BoxFuture<'static, ()>;

/// What is done again and again, each time in another order of steps.
pub trait Story {
    /// Sets the stage for a run, and says what each process does in it. Runs with the same number of
    /// processes must differ in nothing but their keys.
    fn begin(&mut self, run: u64) -> impl Future<Output = Vec<Process>>;

    /// Looks at what came of the run, after all processes are done; statements no longer wait.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&mut self) -> impl Future<Output = Result<(), String>>;
}

/// Runs a [`Story`] in every order of its steps. A step is one statement of one process, from its way
/// to the server until it is answered or waits for a lock.
pub struct Interleaving {
    gates: Vec<Gate>,
    dbs: Vec<Db>,
    control: PgConnection,
    changed: Arc<Notify>,
    max_faults: usize,
    max_switches: usize,
}

/// What came of exploring.
#[derive(Debug, Default)]
pub struct Explored {
    /// How many orders of steps there are.
    pub orders: u64,
    /// In how many of them a process waited for a lock.
    pub with_waits: u64,
    /// How many steps were made in all.
    pub steps: u64,
    /// The first order after which something was wrong.
    pub failure: Option<Failure>,
}

/// An order of steps, and what is wrong after it.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong.
    pub what: String,
    /// The steps.
    pub steps: Vec<String>,
}

/// A decision that can be taken in another way in a later run.
struct Turn {
    taken: usize,
    of: usize,
}

/// One way to go on.
#[derive(Clone, Copy)]
enum Step {
    /// The waiting statement of a process meets its fate.
    Statement(usize, Fate),
    /// A process has waited for a lock for too long.
    TimeOut(usize),
}

impl Step {
    fn process(self) -> usize {
        match self {
            Self::Statement(process, _) | Self::TimeOut(process) => process,
        }
    }
}

/// What a process does while no step is made.
enum Position {
    Held(Flight),
    WaitsForLock,
    Done,
}

impl Interleaving {
    /// So many processes with the same database, on PostgreSQL. Each has one connection.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn of(test: &TestDb, processes: usize) -> Self {
        let control = PgConnection::connect(test.url()).await.expect("the PostgreSQL server");
        let changed = Arc::<Notify>::default();
        let (mut gates, mut dbs) = (Vec::new(), Vec::new());
        for _ in 0..processes {
            let (before, rest) = test.url().split_once("://").expect("a URL");
            let authority = rest.split(['/', '?']).next().unwrap_or(rest);
            let target = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            let gate = Gate::to(target.to_owned(), Arc::clone(&changed), vec![NO_LOCK_TIMEOUT]);
            let gate = gate.await;
            let rest = rest.replacen(target, &format!("127.0.0.1:{}", gate.port), 1);
            let url = rest.split_once('?').map_or(rest.as_str(), |(url, _)| url);
            let url = format!("{before}://{url}?sslmode=disable");
            dbs.push(Db::open(&url, 1).expect("a database URL"));
            gates.push(gate);
        }
        Self { gates, dbs, control, changed, max_faults: 0, max_switches: usize::MAX }
    }

    /// The database, as each of the processes has it.
    pub fn dbs(&self) -> &[Db] {
        &self.dbs
    }

    /// With up to so many faults in each run, at every place where they can be: a statement or an
    /// answer is lost with its connection, or a wait for a lock takes too long.
    #[must_use]
    pub fn with_faults(self, max_faults: usize) -> Self {
        Self { max_faults, ..self }
    }

    /// Only orders in which at most so many times another process goes on although the one before
    /// could: for stories that have too many orders. Few faults need more than two such switches
    /// (M. Musuvathi and S. Qadeer, "Iterative Context Bounding for Systematic Testing of
    /// Multithreaded Programs", 2007).
    #[must_use]
    pub fn with_switches(self, max_switches: usize) -> Self {
        Self { max_switches, ..self }
    }

    /// Changes the text of statements of all processes: shows that a fault in them is found.
    #[must_use]
    pub fn rewriting(self, rewrites: &[Rewrite]) -> Self {
        self.gates.iter().for_each(|gate| gate.rewrite(rewrites));
        self
    }

    /// Changes the text of one process's statements.
    #[must_use]
    pub fn rewriting_of(self, process: usize, rewrites: &[Rewrite]) -> Self {
        self.gates[process].rewrite(rewrites);
        self
    }

    /// Tells `story` in every order of its steps, until something is wrong.
    ///
    /// # Panics
    /// If a process is stuck, or the same steps don't lead to the same place again.
    pub async fn explore(&mut self, story: &mut impl Story) -> Explored {
        let (mut explored, mut turns) = (Explored::default(), Vec::new());
        loop {
            let number = explored.orders;
            if let Err(failure) = self.run(story, number, &mut turns, &mut explored).await {
                explored.failure = Some(failure);
                return explored;
            }
            explored.orders += 1;
            while turns.last().is_some_and(|turn| turn.taken + 1 == turn.of) {
                turns.pop();
            }
            match turns.last_mut() {
                Some(turn) => turn.taken += 1,
                None => return explored,
            }
        }
    }

    async fn run(
        &mut self,
        story: &mut impl Story,
        number: u64,
        turns: &mut Vec<Turn>,
        explored: &mut Explored,
    ) -> Result<(), Failure> {
        let processes = story.begin(number).await;
        assert_eq!(processes.len(), self.gates.len(), "one process to a database");
        self.gates.iter().for_each(Gate::close);
        let spawn = |process: Process| {
            let changed = Arc::clone(&self.changed);
            tokio::spawn(process.map(move |()| changed.notify_one()))
        };
        let mut tasks: Vec<_> = processes.into_iter().map(spawn).collect();
        let (mut steps, mut faults, mut waits) = (Vec::new(), 0, false);
        // The process that made the last step, and how often another went on although it could have.
        let (mut last, mut switches) = (None, 0);
        let mut failure = None;
        for depth in 0.. {
            let positions = self.quiet(&tasks).await;
            let mut possible = self.possible(&positions, faults < self.max_faults);
            let could_go_on =
                last.filter(|last: &usize| matches!(positions[*last], Position::Held(_)));
            if let Some(last) = could_go_on.filter(|_| switches == self.max_switches) {
                possible.retain(|step| step.process() == last);
            }
            waits |= positions.iter().any(|at| matches!(at, Position::WaitsForLock));
            if !possible.iter().any(|step| matches!(step, Step::Statement(..))) {
                if !positions.iter().all(|position| matches!(position, Position::Done)) {
                    failure = Some("a deadlock: each of them waits for another".to_owned());
                }
                break;
            }
            if depth == turns.len() {
                turns.push(Turn { taken: 0, of: possible.len() });
            }
            assert_eq!(turns[depth].of, possible.len(), "the same again, after {steps:#?}");
            let step = possible[turns[depth].taken];
            steps.push(shown(step, &positions));
            faults += usize::from(!matches!(step, Step::Statement(_, Fate::Pass)));
            switches += usize::from(could_go_on.is_some_and(|last| last != step.process()));
            last = Some(step.process());
            self.make(step).await;
        }
        explored.steps += steps.len() as u64;
        explored.with_waits += u64::from(waits);
        self.gates.iter().for_each(Gate::open);
        if failure.is_some() {
            tasks.iter().for_each(JoinHandle::abort);
        }
        for task in &mut tasks {
            if let Err(error) = task.await
                && error.is_panic()
            {
                failure = Some(format!("a process panicked: {error}"));
            }
        }
        let checked = match failure {
            Some(what) => Err(what),
            None => story.check().await,
        };
        checked.map_err(|what| Failure { what, steps })
    }

    /// Waits until no process goes on without a step.
    async fn quiet(&mut self, tasks: &[JoinHandle<()>]) -> Vec<Position> {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < STUCK_AFTER, "a process is stuck");
            let lines: Vec<_> = self.gates.iter().map(Gate::line).collect();
            let done = |i: usize| tasks[i].is_finished() && !lines[i].in_transaction;
            let moving =
                (0..lines.len()).any(|i| lines[i].held.is_none() && !lines[i].running && !done(i));
            let running: Vec<_> = lines.iter().filter(|line| line.running).collect();
            if moving || !running.is_empty() {
                let limit = if moving { STUCK_AFTER } else { ANSWER_WAIT };
                if timeout(limit, self.changed.notified()).await.is_ok() || moving {
                    continue;
                }
                if !self.all_wait_for_locks(&running, &lines).await {
                    continue;
                }
            }
            let position = |line: Line| match line.held {
                Some(flight) => Position::Held(flight),
                None if line.running => Position::WaitsForLock,
                None => Position::Done,
            };
            return lines.into_iter().map(position).collect();
        }
    }

    async fn all_wait_for_locks(&mut self, running: &[&Line], lines: &[Line]) -> bool {
        let pids: Vec<i32> = lines.iter().map(|line| line.pid).collect();
        for line in running {
            let sql = "select pg_isolation_test_session_is_blocked($1, $2)";
            let query = sqlx::query_scalar::<_, bool>(sql).bind(line.pid).bind(&pids);
            if !query.fetch_one(&mut self.control).await.expect("the server's answer") {
                return false;
            }
        }
        true
    }

    fn possible(&self, positions: &[Position], faults: bool) -> Vec<Step> {
        let mut possible = Vec::new();
        for (i, position) in positions.iter().enumerate() {
            match position {
                Position::Held(flight) => {
                    possible.push(Step::Statement(i, Fate::Pass));
                    if faults {
                        possible.push(Step::Statement(i, Fate::LoseStatement));
                    }
                    if faults && flight.writes(self.gates[i].line().in_transaction) {
                        possible.push(Step::Statement(i, Fate::LoseAnswer));
                    }
                }
                Position::WaitsForLock if faults => possible.push(Step::TimeOut(i)),
                Position::WaitsForLock | Position::Done => {}
            }
        }
        possible
    }

    async fn make(&mut self, step: Step) {
        match step {
            Step::Statement(i, fate) => {
                let pid = self.gates[i].line().pid;
                self.gates[i].release(fate);
                if fate == Fate::LoseStatement {
                    self.gone(pid).await;
                }
            }
            Step::TimeOut(i) => {
                self.gates[i].time_out();
                let cancel = sqlx::query("select pg_cancel_backend($1)");
                let cancel = cancel.bind(self.gates[i].line().pid);
                cancel.execute(&mut self.control).await.expect("the server's answer");
                while self.gates[i].line().running {
                    self.changed.notified().await;
                }
            }
        }
    }

    /// Waits until the server has undone what a lost connection left open.
    async fn gone(&mut self, pid: i32) {
        loop {
            let sql = "select count(*) from pg_stat_activity where pid = $1";
            let query = sqlx::query_scalar::<_, i64>(sql).bind(pid);
            if query.fetch_one(&mut self.control).await.expect("the server's answer") == 0 {
                return;
            }
        }
    }
}

fn shown(step: Step, positions: &[Position]) -> String {
    let name = |i: usize| char::from(b'A' + u8::try_from(i).unwrap_or(0));
    let (i, end) = match step {
        Step::TimeOut(i) => return format!("{}: gives up waiting for the lock", name(i)),
        Step::Statement(i, Fate::Pass) => (i, ""),
        Step::Statement(i, Fate::LoseStatement) => (i, "  (never arrives)"),
        Step::Statement(i, Fate::LoseAnswer) => (i, "  (its answer is lost)"),
    };
    let label = match &positions[i] {
        Position::Held(flight) => flight.label(),
        Position::WaitsForLock | Position::Done => String::new(),
    };
    format!("{}: {label}{end}", name(i))
}

impl Explored {
    /// How many orders there were, none of which led to anything wrong.
    ///
    /// # Panics
    /// If one did.
    #[must_use]
    pub fn all_good(self) -> Self {
        if let Some(failure) = &self.failure {
            panic!("order {}: {failure}", self.orders);
        }
        self
    }

    /// The first order that led to something wrong.
    ///
    /// # Panics
    /// If none did.
    pub fn found(self) -> Failure {
        let orders = self.orders;
        self.failure.unwrap_or_else(|| panic!("{orders} orders of steps, and nothing is wrong"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after these steps:", self.what)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}
