//! A user's orders as this instance knows them: first those that are stored, then every change.

use std::{collections::VecDeque, future::pending, pin::pin, sync::Arc, time::Duration};

use futures_util::stream;
use gozon_api::live::{Frame, RESUME_WINDOW, Update, Watch, WatchOrders};
use gozon_contract::{Order, OrderId, Timestamp, UserId};
use gozon_http::Problem;
use gozon_seam::mutation;
use gozon_service::store_problem;
use tokio::time::{Instant, sleep};

use super::{
    listen::PUBLICATION_DELAY,
    subscriptions::{Queued, Subscription},
};
use crate::{
    service::App,
    sql::{self, Filter},
};

/// The most orders in a snapshot, and in a page of catching up.
const PAGE_ORDERS: usize = 100;
/// The most updates taken from the queue at once.
const MAX_BATCH: usize = 64;
/// How long the frame of a new order may wait for others, to share a write with them. The client that
/// placed the order has the answer already; for the others a write by itself would cost more than all
/// the rest. A result never waits.
const NEW_ORDER_DELAY: Duration = Duration::from_millis(50);
/// The most tries of a read of the user's orders, and the mean wait after the first one that failed;
/// it doubles each time. After a pause of this process, connections to the database are gone.
const MAX_READS: u32 = 6;
const READ_RETRY_DELAY: Duration = Duration::from_millis(200);
/// No try is made when this has passed since the first one failed: the client is not served so long.
const READ_RETRY_TIMEOUT: Duration = Duration::from_secs(15);
/// Mean pause before a client catches up: all of an instance do it at once.
const CATCH_UP_DELAY: Duration = Duration::from_millis(500);

/// What is to be sent next.
enum Step {
    /// The newest orders.
    Snapshot,
    /// All orders that changed at the instant or later, and come after the given one.
    CatchUp(Timestamp, Option<OrderId>),
    /// What is queued.
    Queue,
}

/// What came out of the queue.
enum Received {
    Queued(Vec<Queued>),
    /// Nothing, for a while: the client has everything up to this instant.
    UpToDate(Timestamp),
    /// Nothing more will come.
    Nothing,
}

struct Watching {
    app: App,
    user: UserId,
    subscription: Subscription,
    step: Step,
    /// Taken from the queue, and not sent yet.
    taken: VecDeque<Queued>,
    up_to_date: Option<Duration>,
}

/// Watches the orders of the subscription's user. The subscription is older than what is read here:
/// a change is in it, or comes after it, or both.
pub(crate) fn watch(
    app: App,
    user: UserId,
    subscription: Subscription,
    query: WatchOrders,
) -> Watch {
    let now = app.clock.now();
    let recent = query.resume_from.filter(|last| now.since(*last) <= RESUME_WINDOW);
    let step =
        recent.map_or(Step::Snapshot, |last| Step::CatchUp(last.minus(PUBLICATION_DELAY), None));
    let overflow = subscription.overflow.clone();
    let up_to_date = query.up_to_date;
    let watching = Watching { app, user, subscription, step, taken: VecDeque::new(), up_to_date };
    let updates = stream::try_unfold(watching, |mut watching| async move {
        let updates = watching.next().await?;
        Ok((!updates.is_empty()).then_some((updates, watching)))
    });
    Watch { updates: Box::pin(updates), overflow }
}

impl Watching {
    /// The next updates; none at the end. What is seldom needed is boxed, since there are many
    /// clients.
    async fn next(&mut self) -> Result<Vec<Update>, Problem> {
        loop {
            let updates = match self.step {
                Step::Snapshot => Box::pin(self.snapshot()).await?,
                Step::CatchUp(since, after) => Box::pin(self.catch_up(since, after)).await?,
                Step::Queue => match self.taken.pop_front() {
                    Some(Queued::CatchUp(since)) => {
                        Box::pin(sleep(self.app.random.jitter(CATCH_UP_DELAY))).await;
                        self.step = Step::CatchUp(since, None);
                        continue;
                    }
                    Some(Queued::Frame(first)) => self.frames(first),
                    None => match self.receive().await {
                        Received::Queued(taken) => {
                            self.taken = taken.into();
                            continue;
                        }
                        Received::UpToDate(at) => vec![Update::UpToDate(at)],
                        Received::Nothing => return Ok(Vec::new()),
                    },
                },
            };
            if !updates.is_empty() {
                return Ok(updates);
            }
        }
    }

    /// A frame, with those that are queued right behind it.
    fn frames(&mut self, first: Arc<Frame>) -> Vec<Update> {
        let mut updates = vec![Update::Change(first)];
        let is_frame = |next: &mut Queued| matches!(next, Queued::Frame(_));
        while let Some(Queued::Frame(frame)) = self.taken.pop_front_if(is_frame) {
            updates.push(Update::Change(frame));
        }
        updates
    }

    /// Waits for what is queued, or until the client is to be told that it is up to date.
    async fn receive(&mut self) -> Received {
        // Most clients are idle most of the time, and keep no buffer then.
        self.taken = VecDeque::new();
        loop {
            let pause = self.up_to_date;
            let idle = async move {
                match pause {
                    Some(pause) => sleep(pause).await,
                    None => pending().await,
                }
            };
            let mut taken = Vec::new();
            gozon_seam::select! {
                count = self.subscription.updates.recv_many(&mut taken, MAX_BATCH) => {
                    if count == 0 {
                        return Received::Nothing;
                    }
                    if taken.iter().all(Queued::is_new_order) {
                        Box::pin(self.gather(&mut taken)).await;
                    }
                    return Received::Queued(taken);
                }
                () = idle => {
                    // Whatever was published before this instant was queued before it was read.
                    let at = self.app.subscriptions.complete_until();
                    if self.subscription.updates.is_empty() {
                        return Received::UpToDate(at);
                    }
                }
            }
        }
    }

    /// Waits until something has come that must not wait, or for as long as new orders may.
    async fn gather(&mut self, taken: &mut Vec<Queued>) {
        let mut delay = pin!(sleep(NEW_ORDER_DELAY));
        while taken.iter().all(Queued::is_new_order) && taken.len() < MAX_BATCH {
            let room = MAX_BATCH - taken.len();
            gozon_seam::select! {
                count = self.subscription.updates.recv_many(taken, room) => if count == 0 { return },
                () = &mut delay => return,
            }
        }
    }

    async fn snapshot(&mut self) -> Result<Vec<Update>, Problem> {
        let as_of = self.app.subscriptions.complete_until();
        let read = || async {
            let mut reader = self.app.db.read().await?;
            sql::list_orders(&mut reader, self.user, Filter::default(), PAGE_ORDERS).await
        };
        let orders = self.read(read).await?;
        if mutation!("a socket subscribes after its snapshot") {
            while self.subscription.updates.try_recv().is_ok() {}
        }
        self.step = Step::Queue;
        Ok(vec![Update::Snapshot { orders, as_of }])
    }

    async fn catch_up(
        &mut self,
        since: Timestamp,
        after: Option<OrderId>,
    ) -> Result<Vec<Update>, Problem> {
        let read = || async {
            let mut reader = self.app.db.read().await?;
            sql::orders_changed_since(&mut reader, self.user, since, after, PAGE_ORDERS).await
        };
        let orders = self.read(read).await?;
        self.step = match orders.last() {
            Some(last) if orders.len() == PAGE_ORDERS => Step::CatchUp(since, Some(last.id)),
            _ => Step::Queue,
        };
        let frame = |order| Update::Change(Arc::new(Frame::new(order, None, since)));
        Ok(orders.into_iter().map(frame).collect())
    }

    /// Waits for a turn to read from the database, and reads; again, if the database is away or
    /// something is locked.
    async fn read<F>(&self, read: impl Fn() -> F) -> Result<Vec<Order>, Problem>
    where
        F: Future<Output = gozon_store::Result<Vec<Order>>>,
    {
        let (mut delay, mut deadline) = (READ_RETRY_DELAY, None);
        let mut tries = 0;
        loop {
            tries += 1;
            let turn = self.app.subscriptions.reads().acquire().await;
            let error = match read().await {
                Ok(orders) => return Ok(orders),
                Err(error) => error,
            };
            drop(turn);
            tracing::warn!(%error, tries, "can't read a user's orders");
            if matches!(error, gozon_store::Error::Other(_)) {
                return Err(store_problem(error));
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + READ_RETRY_TIMEOUT);
            if tries == MAX_READS || Instant::now() + delay > deadline {
                return Err(store_problem(error));
            }
            sleep(self.app.random.jitter(delay)).await;
            delay *= 2;
        }
    }
}
