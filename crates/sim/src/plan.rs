//! What happens in a run, as it follows from its seed.

use std::{fmt, time::Duration};

use crate::dice::Dice;

/// The instances, by place in the fleet.
pub(crate) const ROLES: [&str; 6] =
    ["gateway-1", "gateway-2", "orders-1", "orders-2", "payments-1", "payments-2"];

/// The databases.
pub(crate) const DATABASES: [&str; 2] = ["orders", "payments"];

/// The queues.
pub(crate) const QUEUES: [&str; 2] = ["payment.requested", "payment.settled"];

/// A fault, or something else that an operator or the environment does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, in milliseconds.
    pub at: u64,
    /// How long it lasts, in milliseconds.
    pub lasts: u64,
    /// What it is.
    pub kind: Kind,
}

/// What a fault is. Numbers are places in the fleet or thousandths of what it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An instance is killed, and started again when the fault ends.
    Crash(usize),
    /// An instance is killed right after one of its next statements, before its answer.
    CrashAfterStatement(usize, u64),
    /// An instance stands still.
    Pause(usize),
    /// An instance stops in order, and starts with other settings.
    Restart(usize),
    /// The clock of a database's host is set, by so many seconds, and back at the end.
    ClockJump(usize, i64),
    /// A database refuses statements with a code, as often as that.
    Refuse(usize, &'static str, u64),
    /// A database refuses, with a code, the statements that settle orders.
    RefuseSettling(usize, &'static str, u64),
    /// A database refuses every write, with the code of a full disk.
    Full(usize),
    /// Connections to a database are lost before or after a statement.
    Disconnect(usize, u64),
    /// Statements are done, but their answers are lost.
    AnswerLost(usize, u64),
    /// Statements take up to so many milliseconds.
    Slow(usize, u64),
    /// Published messages are lost, and the publisher gets no answer.
    PublishLost(u64),
    /// Published messages arrive, and the publisher gets no answer.
    ConfirmLost(u64),
    /// Messages arrive twice, the second time much later.
    Duplicate(u64),
    /// Messages arrive late, in any order.
    Delay(u64),
    /// Consumers lose the broker, and what they hold comes again.
    Redeliver(u64),
    /// The broker restarts: what was not confirmed is lost.
    BrokerRestart,
    /// The broker refuses batches.
    Reject(u64),
    /// The queue of every broadcast's listener is lost.
    ListenersLost,
    /// A queue is lost with all that is in it.
    QueueLost(usize),
    /// A message that is none of ours arrives.
    Garbage(usize),
    /// Connections to an instance are refused.
    Unreachable(usize),
    /// Connections to an instance break before the answer.
    BreakAnswers(usize, u64),
    /// All connections to an instance break.
    Cut(usize),
    /// An operator retries all dead letters.
    Retry,
    /// An operator discards the dead letters of messages that are none of ours.
    Discard,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.at, self.at + self.lasts);
        write!(f, "{from} to {to} ms: {:?}", self.kind)
    }
}

/// What happens in a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it follows from.
    pub seed: u64,
    /// The fault that is put back in our code, if any.
    pub mutation: String,
    /// What goes wrong, and when.
    pub faults: Vec<Fault>,
    /// Number of users.
    pub users: usize,
    /// Requests of each user that change something.
    pub requests: usize,
    /// When the last of them are begun, in milliseconds.
    pub busy_until: u64,
    /// Thousandths of the wake-ups of a task that wait for a processor.
    pub lag: u64,
    /// Thousandths of the statements that take their time.
    pub slow_statements: u64,
    /// Whether units of work lock early, as on SQLite, or late, as on PostgreSQL.
    pub locks_early: bool,
    /// How long an order stays NEW until it is asked for again, in seconds; 0 for ever.
    pub resend_after: u64,
    /// No new orders while the oldest has waited longer, in seconds; 0 for ever.
    pub max_unsettled: u64,
    /// By how many seconds the machines' clocks are wrong.
    pub skew: [i64; 6],
}

/// The end of the faults of a long run, in milliseconds: time for dead letters and for expiry.
const LONG: u64 = 150_000;

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 1);
        let is_long = seed % 25 == 7;
        let busy_until = dice.between(1_500, 7_000);
        let end = if is_long { LONG } else { busy_until };
        let mut plan = Self {
            seed,
            mutation: String::new(),
            faults: Vec::new(),
            users: usize::try_from(dice.between(2, 4)).unwrap_or(2),
            requests: usize::try_from(dice.between(5, 12)).unwrap_or(5),
            busy_until: if is_long { LONG * 2 / 3 } else { busy_until },
            lag: dice.pick(&[0, 10, 40, 150]),
            slow_statements: dice.pick(&[50, 200, 500]),
            locks_early: dice.chance(400),
            resend_after: 0,
            max_unsettled: if dice.chance(100) { 3 } else { 0 },
            skew: [0; 6].map(|_| {
                if dice.chance(300) { dice.between(0, 200_000).cast_signed() - 100_000 } else { 0 }
            }),
        };
        let classes = dice.pick(&[0, 1, 1, 2, 2, 3, 4]);
        for _ in 0..classes {
            let class = dice.below(16);
            for _ in 0..dice.between(1, 3) {
                let fault = fault(&mut dice, class, end, is_long);
                plan.faults.push(fault);
            }
        }
        if is_long {
            plan.long_faults(&mut dice);
        }
        plan.faults.sort_by_key(|fault| fault.at);
        let loses = plan.has(Kind::loses_messages);
        if loses || dice.chance(150) {
            plan.resend_after = dice.between(5, 12);
        }
        plan
    }

    /// What takes its time: letters that die, an operator who gives them another chance, and a jump
    /// of the time with expiry behind it.
    fn long_faults(&mut self, dice: &mut Dice) {
        let mut add = |at, lasts, kind| self.faults.push(Fault { at, lasts, kind });
        let database = usize::try_from(dice.below(2)).unwrap_or(0);
        match dice.below(5) {
            0 => {
                add(500, 95_000, Kind::RefuseSettling(database, "18", 950));
                add(110_000, 0, Kind::Retry);
            }
            // Locked for longer than a letter lives; none may die of it.
            4 => add(500, 95_000, Kind::RefuseSettling(database, "55P03", 950)),
            1 => {
                add(500, 120_000, Kind::Reject(950));
                add(130_000, 0, Kind::Retry);
            }
            2 => {
                add(dice.between(500, 5_000), 0, Kind::Garbage(0));
                add(dice.between(500, 5_000), 0, Kind::Garbage(1));
                add(100_000, 0, Kind::Discard);
            }
            _ => {
                add(
                    dice.between(2_000, 20_000),
                    400_000,
                    Kind::ClockJump(database, 40 * 24 * 3600),
                );
            }
        }
    }

    /// Whether a fault is among those planned.
    pub(crate) fn has(&self, is_one: impl Fn(Kind) -> bool) -> bool {
        self.faults.iter().any(|fault| is_one(fault.kind))
    }

    /// When the last fault ends.
    pub(crate) fn faults_end(&self) -> Duration {
        let last = self.faults.iter().map(|fault| match fault.kind {
            Kind::ClockJump(..) => fault.at,
            _ => fault.at + fault.lasts,
        });
        Duration::from_millis(last.max().unwrap_or(0))
    }
}

impl Kind {
    /// Whether messages are lost that were accepted: then it takes a resend to settle.
    fn loses_messages(self) -> bool {
        matches!(self, Self::QueueLost(_))
    }
}

fn fault(dice: &mut Dice, class: u64, end: u64, is_long: bool) -> Fault {
    let at = dice.between(100, end);
    let lasts = dice.between(200, 4_000);
    let role = usize::try_from(dice.below(6)).unwrap_or(0);
    let service = usize::try_from(dice.between(2, 5)).unwrap_or(2);
    let two = usize::try_from(dice.below(2)).unwrap_or(0);
    let often = dice.pick(&[20, 100, 300, 700]);
    let kind = match class {
        0 => Kind::Crash(role),
        1 => Kind::CrashAfterStatement(service, dice.between(1, 40)),
        2 => Kind::Pause(role),
        3 => Kind::Restart(service),
        4 => Kind::ClockJump(two, dice.pick(&[-86_400 * 3, -30, 30, 86_400 * 3, 86_400 * 30])),
        5 => Kind::Refuse(two, dice.pick(&["40001", "55P03", "57P01", "53300", "25006"]), often),
        6 => Kind::Full(two),
        7 => Kind::Disconnect(two, often / 2),
        8 => Kind::AnswerLost(two, often / 2),
        9 => Kind::Slow(two, dice.pick(&[50, 300, 2_000])),
        10 => {
            dice.pick(&[Kind::PublishLost(often), Kind::ConfirmLost(often), Kind::Redeliver(often)])
        }
        11 => dice.pick(&[Kind::Duplicate(often), Kind::Delay(often)]),
        12 => dice.pick(&[Kind::BrokerRestart, Kind::ListenersLost]),
        13 => dice.pick(&[Kind::QueueLost(two), Kind::BrokerRestart, Kind::Reject(often)]),
        14 => dice.pick(&[Kind::Unreachable(role), Kind::BreakAnswers(role, often)]),
        _ => dice.pick(&[Kind::Cut(role), Kind::BreakAnswers(role, often)]),
    };
    let lasts = match kind {
        Kind::Pause(_) => dice.between(300, 6_000),
        Kind::Duplicate(_) | Kind::Delay(_) if is_long => 60_000,
        // Set back only by a person, much later.
        Kind::ClockJump(..) => 400_000,
        Kind::BrokerRestart => dice.between(10, 2_500),
        _ => lasts,
    };
    Fault { at, lasts, kind }
}
