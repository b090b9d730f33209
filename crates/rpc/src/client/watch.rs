//! A watch that survives the instance it began at: it goes on at another one, from the last instant
//! as of which it was up to date.

use std::{sync::Arc, time::Duration};

use futures_channel::mpsc;
use futures_util::StreamExt as _;
use gozon_api::{
    Call,
    live::{Frame, Update, Watch, WatchOrders},
};
use gozon_contract::{RandomSource, Timestamp};
use gozon_http::Problem;
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Streaming;

use super::{Transport, unreadable, watch_request};
use crate::{
    convert::{read_order, read_timestamp, timestamp},
    proto::orders::{
        WatchOrdersRequest, WatchOrdersResponse, orders_service_client::OrdersServiceClient,
        watch_orders_response::Event,
    },
    status::problem,
};

/// The most updates that may wait for a client before its watch ends.
const QUEUED_UPDATES: usize = 4096;
/// The most updates taken from the queue at once.
const MAX_BATCH: usize = 64;
/// Mean pause before a broken watch is begun again: all of an instance break at once. It doubles
/// with each failure,
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a broken watch is begun again and again before it ends.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an instance may take to begin a watch again.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Where updates wait for a client. tokio's queue has room for 32 before the first; there are many
/// watches, and most are empty most of the time. A problem is large beside an update, and comes once
/// at most.
struct Queue {
    updates: mpsc::Sender<Result<Update, Box<Problem>>>,
    overflow: CancellationToken,
}

struct Watching<T> {
    grpc: OrdersServiceClient<T>,
    call: Call,
    /// The instant as of which the client is up to date.
    up_to_date: Option<Timestamp>,
    random: RandomSource,
}

/// Begins a watch. It is read by a task of its own: however slow the client, what comes for it never
/// fills the connection that it shares with others.
pub(super) async fn start<T: Transport>(
    grpc: OrdersServiceClient<T>,
    call: Call,
    query: WatchOrders,
    random: RandomSource,
) -> Result<Watch, Problem> {
    let deadline = call.context.deadline;
    let mut watching = Watching { grpc, call, up_to_date: query.resume_from, random };
    let responses = watching.begin(deadline).await?;
    let (sender, updates) = mpsc::channel(QUEUED_UPDATES);
    let overflow = CancellationToken::new();
    let queue = Queue { updates: sender, overflow: overflow.clone() };
    let task = AbortOnDropHandle::new(tokio::spawn(watching.run(responses, queue)));
    let updates = updates.ready_chunks(MAX_BATCH).map(move |taken| {
        // The task ends when this is dropped.
        let _ = &task;
        taken.into_iter().map(|update| update.map_err(|problem| *problem)).collect()
    });
    Ok(Watch { updates: Box::pin(updates), overflow })
}

impl Queue {
    /// Adds to the queue; whether the watch goes on.
    fn push(&mut self, update: Result<Update, Box<Problem>>) -> bool {
        let pushed = self.updates.try_send(update);
        if pushed.as_ref().is_err_and(mpsc::TrySendError::is_full) {
            self.overflow.cancel();
        }
        pushed.is_ok()
    }
}

impl<T: Transport> Watching<T> {
    async fn begin(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Streaming<WatchOrdersResponse>, Problem> {
        let message = WatchOrdersRequest {
            user_id: self.call.user.to_string(),
            resume_from: self.up_to_date.map(timestamp),
        };
        let request = watch_request(&self.call, deadline, message);
        let response = self.grpc.watch_orders(request).await;
        Ok(response.map_err(|status| problem(&status))?.into_inner())
    }

    /// Queues what comes, from one instance after the other, until the client can't keep up, or no
    /// instance can be reached for long.
    async fn run(mut self, mut responses: Streaming<WatchOrdersResponse>, mut queue: Queue) {
        while let Some(ended) = self.read(&mut responses, &mut queue).await {
            // Boxed, since it is large and seldom needed, and there are many watches.
            responses = match Box::pin(self.begin_again(ended)).await {
                Ok(responses) => responses,
                Err(problem) => {
                    queue.push(Err(problem));
                    return;
                }
            };
        }
    }

    /// Begins a watch that has broken again, at whichever instance can be reached.
    async fn begin_again(
        &mut self,
        mut problem: Box<Problem>,
    ) -> Result<Streaming<WatchOrdersResponse>, Box<Problem>> {
        let (give_up, mut pause) = (Instant::now() + PATIENCE, FIRST_PAUSE);
        while may_heal(&problem) && Instant::now() <= give_up {
            sleep(self.random.jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match self.begin(Some(Instant::now() + BEGIN_TIMEOUT)).await {
                Ok(responses) => return Ok(responses),
                Err(again) => problem = Box::new(again),
            }
        }
        Err(problem)
    }

    /// Reads a stream to its end; the problem, unless it ended because of the client.
    async fn read(
        &mut self,
        responses: &mut Streaming<WatchOrdersResponse>,
        queue: &mut Queue,
    ) -> Option<Box<Problem>> {
        loop {
            let response = match responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Some(Box::new(gozon_api::live::restarting())),
                Err(status) => return Some(Box::new(problem(&status))),
            };
            let Some((as_of, update)) = read_response(response) else {
                return Some(Box::new(unreadable()));
            };
            self.up_to_date = self.up_to_date.max(Some(as_of));
            if !queue.push(Ok(update)) {
                return None;
            }
        }
    }
}

/// Whether another instance, or this one in a moment, may go on.
fn may_heal(problem: &Problem) -> bool {
    matches!(problem.status, 502..=504) || problem.code == "too_slow"
}

fn read_response(response: WatchOrdersResponse) -> Option<(Timestamp, Update)> {
    let as_of = read_timestamp(&response.as_of?)?;
    let update = match response.event {
        None => Update::UpToDate(as_of),
        Some(Event::Snapshot(snapshot)) => {
            let orders: Option<Vec<_>> = snapshot.orders.into_iter().map(read_order).collect();
            Update::Snapshot { orders: orders?, as_of }
        }
        Some(Event::Change(change)) => {
            let order = read_order(change.order?)?;
            Update::Change(Arc::new(Frame::new(order, change.traceparent.parse().ok(), as_of)))
        }
    };
    Some((as_of, update))
}
