//! Group commit: requests that change something share transactions.
//!
//! A commit costs the same for one row or five hundred. The writer takes every request that queued
//! up while the last commit ran, and commits them together. Under load commits also keep a little
//! [distance](Pace); a request by itself never waits for others. If a commit fails for the data's
//! sake, each gets a transaction of its own, so that one bad row harms nobody else.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use gozon_contract::{Clock, RandomSource, UserId};
use gozon_messaging::Added;
use gozon_store::{Db, Error, Pace, Retry, Statement, Tx};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use gozon_http::{Answer, Answered, Problem};

use crate::{IdempotencyKey, idempotency, store_problem};

/// The most requests in one transaction.
const BATCH: usize = 500;
/// The most requests that wait for the writer; more are turned away.
const QUEUE: usize = 10_000;

/// What a service does with requests of one kind.
#[async_trait]
pub trait UseCase: Send + Sync + 'static {
    /// What is asked for.
    type Request: Clone + Send + Sync + 'static;

    /// Decides what is asked, reading in `tx` what it has to know.
    ///
    /// The first attempt [locks nothing](Db::at_once). If somebody was faster, what is to be written
    /// must be a [conflict](Error::Conflict); then nothing of it is kept, and the next attempt keeps
    /// locked what it reads for an update.
    async fn decide(&self, tx: &mut Tx, requests: &[Self::Request])
    -> gozon_store::Result<Decided>;
}

/// What [`UseCase::decide`] came to; all of it is one transaction.
#[derive(Debug)]
pub struct Decided {
    /// One answer to each request, in order.
    pub answers: Vec<Answer>,
    /// What is to be written.
    pub statements: Vec<Statement>,
    /// What of it goes into the outbox.
    pub added: Option<Added>,
}

/// Takes requests to a use case and commits them in groups. Clones feed the same queue.
pub struct Writer<R> {
    queue: mpsc::Sender<Job<R>>,
}

impl<R> Clone for Writer<R> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

#[derive(Debug)]
struct Job<R> {
    user: UserId,
    key: Option<IdempotencyKey>,
    request: R,
    reply: oneshot::Sender<Result<Answered, Problem>>,
}

impl<R: Clone + Send + Sync + 'static> Writer<R> {
    /// A writer for `use_case`, and its loop, which ends after `stop` once all that was accepted
    /// is answered.
    pub fn new(
        name: &'static str,
        db: Db,
        clock: Clock,
        random: RandomSource,
        use_case: impl UseCase<Request = R>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let pace = Pace::of(&db);
        let mut group = Group { name, db, pace, clock, random, use_case: Arc::new(use_case), jobs };
        let run = async move {
            loop {
                let jobs = tokio::select! {
                    jobs = group.next() => jobs,
                    () = stop.cancelled(), if !group.jobs.is_closed() => {
                        group.jobs.close();
                        continue;
                    }
                };
                if jobs.is_empty() {
                    return;
                }
                group.commit(jobs).await;
            }
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
        key: Option<IdempotencyKey>,
        request: R,
    ) -> Result<Answered, Problem> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .try_send(Job { user, key, request, reply })
            .map_err(|_| Problem::unavailable("too many requests are waiting; try again"))?;
        answer.await.unwrap_or_else(|_| Err(Problem::unavailable("shutting down; try again")))
    }
}

struct Group<U: UseCase> {
    name: &'static str,
    db: Db,
    pace: Pace,
    clock: Clock,
    random: RandomSource,
    use_case: Arc<U>,
    jobs: mpsc::Receiver<Job<U::Request>>,
}

impl<U: UseCase> Group<U> {
    /// The next group, once it may begin; empty when no more can come. Cancel-safe.
    async fn next(&mut self) -> Vec<Job<U::Request>> {
        let mut jobs = Vec::new();
        self.pace.wait().await;
        self.jobs.recv_many(&mut jobs, BATCH).await;
        jobs
    }

    async fn commit(&mut self, jobs: Vec<Job<U::Request>>) {
        self.pace.begin(jobs.len());
        let started = Instant::now();
        let size = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        metrics::histogram!("gozon_group_size", "writer" => self.name).record(f64::from(size));
        self.finish(jobs).await;
        metrics::histogram!("gozon_commit_seconds", "writer" => self.name)
            .record(started.elapsed().as_secs_f64());
    }

    async fn finish(&self, jobs: Vec<Job<U::Request>>) {
        match self.with_retries(&jobs).await {
            Ok(answers) => {
                // Each answer wakes somebody who wants a processor. The relay goes first: on what it
                // was handed, the rest of the order's way depends.
                tokio::task::yield_now().await;
                for (job, answer) in jobs.into_iter().zip(answers) {
                    let _ = job.reply.send(Ok(answer));
                }
            }
            // Whether it was committed is not known: to run it again could do it twice.
            Err(error) if error.is_unavailable() || jobs.len() == 1 => {
                let problem = store_problem(error);
                for job in jobs {
                    let _ = job.reply.send(Err(problem.clone()));
                }
            }
            Err(error) => {
                tracing::warn!(writer = self.name, %error, "taking a group one by one");
                for job in jobs {
                    Box::pin(self.finish(vec![job])).await;
                }
            }
        }
    }

    async fn with_retries(&self, jobs: &[Job<U::Request>]) -> Result<Vec<Answered>, Error> {
        let mut retry = Retry::new(&self.random);
        let mut result = self.in_one_transaction(self.db.at_once().await?, jobs).await;
        while let Err(error) = &result
            && retry.again(error).await
        {
            result = self.in_one_transaction(self.db.begin().await?, jobs).await;
        }
        result
    }

    async fn in_one_transaction(
        &self,
        mut tx: Tx,
        jobs: &[Job<U::Request>],
    ) -> Result<Vec<Answered>, Error> {
        let keyed: Vec<_> =
            jobs.iter().filter_map(|job| Some((job.user, job.key.clone()?))).collect();
        let before = if keyed.is_empty() {
            HashMap::new()
        } else {
            idempotency::find(&mut tx, &keyed).await?
        };

        // A job is fresh unless its key was used before, in the table or earlier in this group.
        let mut fresh = Vec::new();
        let mut first_with = HashMap::new();
        for (index, job) in jobs.iter().enumerate() {
            let name = job.key.as_ref().map(|key| key.name(job.user));
            let repeat = name
                .as_ref()
                .is_some_and(|name| before.contains_key(name) || first_with.contains_key(name));
            if !repeat {
                if let Some(name) = name {
                    first_with.insert(name, index);
                }
                fresh.push(index);
            }
        }

        let mut answers: Vec<Option<Answer>> = vec![None; jobs.len()];
        let (mut statements, mut added) = (Vec::new(), None);
        if !fresh.is_empty() {
            let requests: Vec<_> = fresh.iter().map(|&i| jobs[i].request.clone()).collect();
            let decided = self.use_case.decide(&mut tx, &requests).await?;
            (statements, added) = (decided.statements, decided.added);
            for (&index, answer) in fresh.iter().zip(decided.answers) {
                answers[index] = Some(answer);
            }
        }
        let keep: Vec<_> = fresh
            .iter()
            .filter_map(|&i| Some((jobs[i].user, jobs[i].key.clone()?, answers[i].clone()?)))
            .collect();
        if !keep.is_empty() {
            statements.push(idempotency::keep(keep, self.clock.now()));
        }
        statements.extend(added.as_ref().and_then(Added::statement));
        tx.commit_with(statements).await?;
        if let Some(added) = added {
            added.committed();
        }

        // Nothing below may fail: it is committed.
        let answered = |(index, job): (usize, &Job<U::Request>)| {
            if let Some(answer) = answers[index].clone() {
                return Answered { answer, replayed: false };
            }
            let repeat = job.key.as_ref().and_then(|key| {
                let name = key.name(job.user);
                if let Some((first, answer)) = before.get(&name) {
                    return Some(key.replay(first, answer));
                }
                let first = *first_with.get(&name)?;
                Some(key.replay(jobs[first].key.as_ref()?, answers[first].as_ref()?))
            });
            let answer = repeat
                .unwrap_or_else(|| Answer::Refused(Problem::internal(&"a request has no answer")));
            Answered { replayed: !is_reuse(&answer), answer }
        };
        Ok(jobs.iter().enumerate().map(answered).collect())
    }
}

/// Whether the answer only says that the key was used for something else.
fn is_reuse(answer: &Answer) -> bool {
    matches!(answer, Answer::Refused(problem) if problem.code == IdempotencyKey::REUSED)
}
