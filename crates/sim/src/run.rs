//! One run: a plan from beginning to end.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use tokio::{
    task::{LocalSet, spawn_local},
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::{
    broker::SimulatedBroker,
    checks,
    client::Client,
    control::Control,
    dice::Dice,
    fleet::Fleet,
    log::{self, OwnLog, OwnMetrics},
    notes::Notes,
    plan::{Kind, Plan, ROLES},
    processor, socket,
    storage::Storage,
    world::World,
};

/// How often it is looked whether all is settled.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Within this time after the last fault, and after the last request, everything is settled. It has
/// room for the longest wait between two attempts, and for a resend.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
/// How often dead letters are retried at the end.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
    static VIOLATIONS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Asks the world of the run on this thread.
pub(crate) fn with_world<T: Default>(ask: impl FnOnce(&World) -> T) -> T {
    let world = WORLD.with_borrow(Clone::clone);
    world.map(|world| ask(&world)).unwrap_or_default()
}

/// Something that must hold does not.
pub(crate) fn violation(what: String) {
    log::note(format_args!("VIOLATION: {what}"));
    VIOLATIONS.with_borrow_mut(|all| all.push(what));
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What does not hold, if anything.
    pub violations: Vec<String>,
    /// A hash of all that happened.
    pub hash: u64,
    /// How often rare things happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// A line for each event, if they were wanted.
    pub lines: Vec<String>,
    /// How long it took, in simulated time.
    pub took: Duration,
    /// Number of orders.
    pub orders: usize,
}

/// Runs plans on this thread, one after the other.
pub struct Simulator {
    storage: Storage,
}

impl Simulator {
    /// A simulator with databases of its own.
    ///
    /// # Errors
    /// The databases can't be made.
    pub fn new() -> anyhow::Result<Self> {
        processor::bind_to_one();
        Ok(Self { storage: Storage::new()? })
    }

    /// Runs a plan, with a line for each event if they are wanted.
    ///
    /// # Errors
    /// The databases can't be used.
    pub fn run(&mut self, plan: &Plan, recording: bool) -> anyhow::Result<Outcome> {
        self.storage.reset()?;
        VIOLATIONS.take();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        let (world, notes) = {
            let _log = tracing::dispatcher::set_default(&tracing::Dispatch::new(OwnLog));
            let _metrics = metrics::set_default_local_recorder(&OwnMetrics);
            let local = LocalSet::new();
            let ended = local.block_on(&runtime, self.simulate(plan, recording));
            let clock = runtime.enter();
            let ended = ended.map(|(world, notes)| ((world.elapsed(), world.now_micros()), notes));
            drop((local, clock));
            drop(runtime);
            gozon_seam::enter(None);
            WORLD.set(None);
            ended?
        };
        let (took, now) = world;
        checks::notes_hold(&notes, &mut self.storage, plan, now)?;
        checks::books_hold(&self.storage, now)?;
        let orders = self.storage.orders()?.len();
        let recorded = log::finish();
        Ok(Outcome {
            violations: VIOLATIONS.take(),
            hash: recorded.hash,
            counts: recorded.counts,
            lines: recorded.lines,
            took,
            orders,
        })
    }

    async fn simulate(
        &mut self,
        plan: &Plan,
        recording: bool,
    ) -> anyhow::Result<(Rc<World>, Notes)> {
        log::start(recording);
        let world = World::new(plan.clone());
        gozon_seam::enter(Some(Rc::clone(&world) as Rc<dyn gozon_seam::World>));
        WORLD.set(Some(Rc::clone(&world)));
        let broker = SimulatedBroker::new(plan.seed);
        let urls = ["orders", "payments"].map(|name| self.storage.url(name));
        let fleet = Fleet::new(plan.clone(), broker.clone(), urls.clone());
        (0..ROLES.len()).for_each(|role| fleet.start(role));
        let control = Control { world: Rc::clone(&world), fleet: fleet.clone(), broker, urls };
        control.start();
        let notes = start_clients(plan);

        sleep(plan.faults_end()).await;
        while notes.is_busy() {
            sleep(LOOK_INTERVAL).await;
        }
        self.settle(&control, &notes).await?;
        (0..ROLES.len()).for_each(|role| fleet.kill(role));
        Ok((world, notes))
    }

    /// Waits until everything is settled and every open socket says so.
    async fn settle(&mut self, control: &Control, notes: &Notes) -> anyhow::Result<()> {
        let limit = Instant::now() + SETTLE_LIMIT;
        let mut retry_at = Instant::now();
        loop {
            let (new, waiting) = self.storage.unsettled();
            let may_die = |kind| matches!(kind, Kind::RefuseSettling(_, "18", _) | Kind::Reject(_));
            if self.storage.dead_letters() > 0 && !control.world.plan().has(may_die) {
                violation("a message of ours became a dead letter".to_owned());
                return Ok(());
            }
            if self.storage.dead_letters() > 0 && retry_at <= Instant::now() {
                control.dead_letters(true).await;
                retry_at = Instant::now() + RETRY_INTERVAL;
            }
            let is_settled = new == 0 && waiting == 0 && self.storage.dead_letters() == 0;
            let lies = if is_settled { self.lies(notes)? } else { Vec::new() };
            if is_settled && lies.is_empty() {
                return Ok(());
            }
            if Instant::now() >= limit {
                if !is_settled {
                    let at_broker = control.broker.waiting();
                    violation(format!(
                        "not settled: {new} orders are NEW, {waiting} messages wait, {at_broker} at the broker"
                    ));
                }
                lies.into_iter().for_each(violation);
                return Ok(());
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    fn lies(&mut self, notes: &Notes) -> anyhow::Result<Vec<String>> {
        let orders = checks::by_id(&self.storage.orders()?);
        let open = notes.views();
        Ok(open.iter().filter_map(|view| socket::lies(&view.borrow(), &orders)).collect())
    }
}

fn start_clients(plan: &Plan) -> Notes {
    let (notes, mut dice) = (Notes::default(), Dice::new(plan.seed, 6));
    let users: Vec<Uuid> = (0..plan.users)
        .map(|_| Uuid::from_u64_pair(dice.bits() & !0xf000 | 0x4000, dice.bits() >> 2 | 1 << 63))
        .collect();
    for number in 0..plan.users {
        notes.begin();
        let client = Client::new(plan, number, &users, notes.clone());
        spawn_local(client.run(plan.clone()));
        for socket in 0..dice.below(3) {
            let dice = Dice::new(plan.seed, 1_000 + 10 * number as u64 + socket);
            spawn_local(socket::follow(users[number], notes.clone(), dice));
        }
    }
    notes
}
