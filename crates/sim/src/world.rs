//! The environment of the processes: time, delays, and the faults that are under way.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use gozon_seam::{Connect, End, Fate, Process};
use tokio::time::Instant;

use crate::{
    dice::Dice,
    log,
    plan::{DATABASES, Kind, Plan, ROLES},
};

/// When the simulated time begins, in microseconds since the epoch.
pub(crate) const EPOCH_MICROS: i64 = 1_763_683_200_000_000;
/// The first port; each instance has the next.
const FIRST_PORT: u16 = 8080;

/// The port of an instance.
pub(crate) fn port_of(role: usize) -> u16 {
    FIRST_PORT + u16::try_from(role).unwrap_or(0)
}

/// The place of the process that runs now in the fleet.
pub(crate) fn current_role() -> Option<usize> {
    let name = gozon_seam::current().map(Process::name)?;
    ROLES.iter().position(|role| *role == name)
}

/// The world of a run.
pub(crate) struct World {
    plan: Plan,
    started: Instant,
    schedule: RefCell<Dice>,
    faults: RefCell<Dice>,
    entropy: RefCell<Dice>,
    /// The faults under way, by their place in the plan.
    active: RefCell<Vec<(usize, Kind)>>,
    /// By how many microseconds the clocks of the databases' hosts were set.
    jumped: [Cell<i64>; 2],
    /// Instances to be killed after so many more statements.
    doomed: RefCell<Vec<(usize, u64)>>,
    /// Instances to be killed now.
    kill: RefCell<Vec<usize>>,
    kills: tokio::sync::Notify,
}

impl World {
    pub fn new(plan: Plan) -> Rc<Self> {
        let seed = plan.seed;
        Rc::new(Self {
            plan,
            started: Instant::now(),
            schedule: RefCell::new(Dice::new(seed, 2)),
            faults: RefCell::new(Dice::new(seed, 3)),
            entropy: RefCell::new(Dice::new(seed, 4)),
            active: RefCell::default(),
            jumped: Default::default(),
            doomed: RefCell::default(),
            kill: RefCell::default(),
            kills: tokio::sync::Notify::new(),
        })
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The simulated time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The instant so many milliseconds after the start.
    pub fn instant(&self, millis: u64) -> Instant {
        self.started + Duration::from_millis(millis)
    }

    /// A fault begins.
    pub fn begin(&self, place: usize, kind: Kind) {
        match kind {
            Kind::ClockJump(database, seconds) => self.jumped[database].set(seconds * 1_000_000),
            Kind::CrashAfterStatement(role, statements) => {
                self.doomed.borrow_mut().push((role, statements));
            }
            _ => {}
        }
        self.active.borrow_mut().push((place, kind));
    }

    /// A fault ends.
    pub fn end(&self, place: usize) {
        self.active.borrow_mut().retain(|(other, kind)| {
            if *other == place
                && let Kind::CrashAfterStatement(role, _) = kind
            {
                self.doomed.borrow_mut().retain(|(doomed, _)| doomed != role);
            }
            *other != place
        });
    }

    /// Looks through the faults under way, each with dice.
    pub fn find<T>(&self, mut find: impl FnMut(Kind, &mut Dice) -> Option<T>) -> Option<T> {
        let active = self.active.borrow();
        if active.is_empty() {
            return None;
        }
        let mut dice = self.faults.borrow_mut();
        active.iter().find_map(|(_, kind)| find(*kind, &mut dice))
    }

    /// The instances that a fault kills next, once it does.
    pub async fn doomed(&self) -> Vec<usize> {
        loop {
            let kill = self.kill.take();
            if !kill.is_empty() {
                return kill;
            }
            self.kills.notified().await;
        }
    }

    fn dies_now(&self) -> bool {
        let Some(role) = current_role() else { return false };
        let mut doomed = self.doomed.borrow_mut();
        let Some(at) = doomed.iter().position(|(who, _)| *who == role) else { return false };
        doomed[at].1 = doomed[at].1.saturating_sub(1);
        if doomed[at].1 > 0 {
            return false;
        }
        doomed.remove(at);
        self.kill.borrow_mut().push(role);
        self.kills.notify_one();
        true
    }

    fn end_of(&self, database: usize, sql: &str) -> End {
        let writes = !sql.starts_with("select");
        let found = self.find(|kind, dice| match kind {
            Kind::RefuseSettling(at, code, often) if at == database => {
                let concerned = sql.contains("payments ") || sql.contains("update orders");
                (concerned && dice.chance(often)).then_some(End::Refused(code))
            }
            Kind::Refuse(at, code, often) if at == database && dice.chance(often) => {
                Some(End::Refused(code))
            }
            Kind::Full(at) if at == database && writes && sql != "rollback" => {
                Some(End::Refused("13"))
            }
            Kind::Disconnect(at, often) if at == database && dice.chance(often) => Some(End::Lost),
            Kind::AnswerLost(at, often) if at == database && dice.chance(often) => {
                Some(End::AnswerLost)
            }
            _ => None,
        });
        found.unwrap_or(End::Answered)
    }
}

impl gozon_seam::World for World {
    fn lag(&self) -> Duration {
        let mut dice = self.schedule.borrow_mut();
        if !dice.chance(self.plan.lag) {
            return Duration::ZERO;
        }
        if dice.chance(30) { dice.millis(20, 400) } else { dice.millis(1, 6) }
    }

    fn connect(&self, port: u16) -> Connect {
        let role = usize::from(port - FIRST_PORT);
        let delay = self.schedule.borrow_mut().millis(0, 2);
        let fault = self.find(|kind, dice| match kind {
            Kind::Unreachable(at) if at == role => {
                Some(Connect { refused: true, delay, breaks_after: None })
            }
            Kind::BreakAnswers(at, often) if at == role && dice.chance(often) => {
                let bytes = dice.pick(&[0, 0, 0, 200, 900, 3_000]);
                Some(Connect { refused: false, delay, breaks_after: Some(bytes) })
            }
            _ => None,
        });
        if fault.is_some() {
            log::sometimes("a connection was refused or broke before the answer");
        }
        fault.unwrap_or(Connect { refused: false, delay, breaks_after: None })
    }

    fn statement(&self, database: &str, sql: &str) -> Fate {
        let Some(database) = DATABASES.iter().position(|name| *name == database) else {
            return Fate { before: Duration::ZERO, end: End::Answered, after: Duration::ZERO };
        };
        let mut fate = {
            let mut dice = self.schedule.borrow_mut();
            let mut time = || {
                if !dice.chance(self.plan.slow_statements) {
                    Duration::ZERO
                } else if dice.chance(20) {
                    dice.millis(5, 150)
                } else {
                    dice.millis(1, 3)
                }
            };
            Fate { before: time(), end: End::Answered, after: time() }
        };
        fate.end = self.end_of(database, sql);
        let slow = self.find(|kind, dice| match kind {
            Kind::Slow(at, most) if at == database => Some(dice.millis(0, most)),
            _ => None,
        });
        fate.before += slow.unwrap_or_default();
        if sql != "rollback" && self.dies_now() {
            // The statement is done, and nobody gets the answer.
            fate =
                Fate { before: Duration::ZERO, end: End::Answered, after: Duration::from_secs(60) };
            log::sometimes("killed between a statement and its answer");
        }
        if log::is_recording() && fate.end != End::Answered {
            log::note(format_args!("{} {:?}: {}", DATABASES[database], fate.end, first_words(sql)));
        }
        match fate.end {
            End::AnswerLost => log::sometimes("a statement was done and its answer lost"),
            End::Lost => log::sometimes("a connection to a database was lost"),
            End::Refused(_) => log::sometimes("a database refused a statement"),
            End::Answered => {}
        }
        fate
    }

    fn database_time(&self, database: &str) -> i64 {
        let at = DATABASES.iter().position(|name| *name == database).unwrap_or(0);
        self.now_micros() + self.jumped[at].get()
    }

    fn machine_time(&self) -> i64 {
        let skew = current_role().map_or(0, |role| self.plan.skew[role]);
        self.now_micros() + skew * 1_000_000
    }

    fn random(&self) -> u64 {
        self.entropy.borrow_mut().bits()
    }

    fn mutation(&self) -> &str {
        &self.plan.mutation
    }

    fn locks_early(&self) -> bool {
        self.plan.locks_early
    }
}

impl World {
    /// The true time, in microseconds since the epoch.
    pub fn now_micros(&self) -> i64 {
        EPOCH_MICROS + i64::try_from(self.elapsed().as_micros()).unwrap_or(0)
    }
}

fn first_words(sql: &str) -> String {
    sql.split_whitespace().take(6).collect::<Vec<_>>().join(" ")
}
