//! Group commit: requests that change something share transactions.
//!
//! A commit costs the same for one row or five hundred. While one runs, requests queue up; the next
//! takes all of them. A request by itself never waits for others.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use gozon_contract::UserId;
use gozon_http::{Answer, Answered, Problem, Reply};
use gozon_messaging::{Context, Failure, Job, Outcome, Runner, UseCase};
use gozon_seam::mutation;
use gozon_store::add_database_time;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{KeyedRequest, idempotency::Keyed, store_problem};

/// The most requests in one transaction.
const MAX_GROUP: usize = 500;
/// The most requests that wait for a transaction; more are turned away.
const MAX_QUEUED: usize = 5_000;
/// The most groups whose requests are tried each by itself while later groups go on.
const MAX_SPLIT_GROUPS: usize = 8;

/// Takes requests to a use case and commits them in groups. Clones feed the same queue.
pub struct GroupCommit<C, R> {
    queue: mpsc::Sender<Waiting<C, R>>,
}

impl<C, R> Clone for GroupCommit<C, R> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

/// A request and where its answer goes.
struct Waiting<C, R> {
    job: Job<Keyed<R>, C>,
    reply: oneshot::Sender<Timed<R>>,
}

/// An answer, and how long the group's commit took.
type Timed<R> = (Result<Answered<R>, Problem>, Duration);

impl<C: Send + Sync + 'static, R: Reply> GroupCommit<C, R> {
    /// A group commit for `use_case`, and its loop, which ends after `stop` once all that was
    /// accepted is answered.
    pub fn new<U: UseCase<Command = C, Reply = Answer<R>>>(
        name: &'static str,
        context: Context,
        use_case: U,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, mut waiting) = mpsc::channel(MAX_QUEUED);
        let committer = Committer {
            name,
            runner: Arc::new(Runner::new(context, Arc::new(use_case))),
            splits: Arc::new(Semaphore::new(MAX_SPLIT_GROUPS)),
        };
        let run = async move {
            let mut group: Vec<Waiting<C, R>> = Vec::new();
            loop {
                gozon_seam::select! {
                    count = waiting.recv_many(&mut group, MAX_GROUP) => if count == 0 { break },
                    () = stop.cancelled(), if !waiting.is_closed() => waiting.close(),
                }
                // Nothing is begun for a caller that has given up.
                let group = std::mem::take(&mut group).into_iter();
                let group: Vec<_> = group.filter(|waiting| !waiting.reply.is_closed()).collect();
                if !group.is_empty() {
                    committer.commit(group).await;
                }
            }
            // Groups that are still being tried one by one.
            let all = u32::try_from(MAX_SPLIT_GROUPS).unwrap_or(1);
            let _ = committer.splits.acquire_many(all).await;
            // Without anybody left to submit, there is nothing to do until then.
            stop.cancelled().await;
        };
        (Self { queue }, run)
    }

    /// Has a request done and waits until it is durable.
    ///
    /// # Errors
    /// 503 when the database is away or too many wait; it may or may not have been done then.
    pub async fn submit(
        &self,
        user: UserId,
        request: Option<KeyedRequest>,
        command: C,
    ) -> Result<Answered<R>, Problem> {
        let (reply, answer) = oneshot::channel();
        let job =
            Job { guard: Keyed { user, request, reply: PhantomData }, commands: vec![command] };
        self.queue
            .try_send(Waiting { job, reply })
            .map_err(|_| Problem::unavailable("too many requests are waiting; try again"))?;
        let Ok((answer, took)) = answer.await else {
            return Err(Problem::unavailable("shutting down; try again"));
        };
        add_database_time(took);
        answer
    }
}

struct Committer<U: UseCase<Reply = Answer<R>>, R: Reply> {
    name: &'static str,
    runner: Arc<Runner<U, Keyed<R>>>,
    splits: Arc<Semaphore>,
}

impl<U: UseCase<Reply = Answer<R>>, R: Reply> Committer<U, R> {
    async fn commit(&self, group: Vec<Waiting<U::Command, R>>) {
        let started = Instant::now();
        let size = u32::try_from(group.len()).unwrap_or(u32::MAX);
        metrics::histogram!("gozon_group_size", "writer" => self.name).record(f64::from(size));
        let (jobs, replies): (Vec<_>, Vec<_>) =
            group.into_iter().map(|waiting| (waiting.job, waiting.reply)).unzip();
        let mut outcomes = self.runner.together(&jobs).await;
        if mutation!("a commit of unknown outcome is run again")
            && matches!(&outcomes, Err(failure) if failure.is_unavailable())
        {
            outcomes = self.runner.together(&jobs).await;
        }
        match outcomes {
            Ok(outcomes) => {
                // Each answer wakes somebody who wants a processor. The relay goes first: the rest of
                // the order's way depends on it.
                tokio::task::yield_now().await;
                answer(replies, outcomes, started);
            }
            // Whether it was committed is not known: to run it again could do it twice.
            Err(failure) if failure.is_unavailable() || jobs.len() == 1 => {
                let failures = jobs.iter().map(|_| Err(failure.clone())).collect();
                answer(replies, failures, started);
            }
            // One request's fault, or the lock of one row, holds up nobody else.
            Err(failure) => {
                tracing::warn!(group = self.name, %failure, "taking a group one by one");
                let permit = Arc::clone(&self.splits).acquire_owned().await;
                let runner = Arc::clone(&self.runner);
                gozon_seam::spawn(async move {
                    answer(replies, runner.singly(&jobs).await, started);
                    drop(permit);
                });
            }
        }
        metrics::histogram!("gozon_commit_seconds", "writer" => self.name)
            .record(started.elapsed().as_secs_f64());
    }
}

fn answer<R>(
    replies: Vec<oneshot::Sender<Timed<R>>>,
    outcomes: Vec<Outcome<Answer<R>>>,
    started: Instant,
) {
    let took = started.elapsed();
    for (reply, outcome) in replies.into_iter().zip(outcomes) {
        let _ = reply.send((answered(outcome), took));
    }
}

fn answered<R>(outcome: Outcome<Answer<R>>) -> Result<Answered<R>, Problem> {
    match outcome {
        Ok(mut done) => match done.replies.pop() {
            Some(answer) => Ok(Answered { answer, replayed: done.repeated }),
            None => Err(Problem::internal(&"a request has no answer")),
        },
        Err(Failure::Store(error)) => Err(store_problem(error)),
        Err(failure) => Err(Problem::internal(&failure)),
    }
}
