//! The one batch protocol: requests and messages alike are read, decided, and written with their
//! guards and what they send, in one transaction.
//!
//! ```text
//! together, optimistic   assume that nobody is in the way and nothing was done before
//!     │ conflict
//! together, locking      look at the guards first, keep locked what is read; again while there are
//!     │ failure          conflicts
//! each job by itself     one that fails has its own failure, and no other
//! ```
//!
//! A [`Job`] has a [`Guard`], which makes a repeat of it do nothing: an idempotency key, or the id of
//! a delivery. A [`UseCase`] decides without side effects, from what it can only read, and says what
//! to write, to send, and to do after the commit. The runner knows neither HTTP nor brokers.

use std::{
    collections::HashSet,
    hash::Hash,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use gozon_contract::Timestamp;
use gozon_seam::mutation;
use gozon_store::{Error, Reader, Retry, Statement, Work};

use crate::{Context, InvalidEvent, Outgoing};

/// How many jobs are run at the same time once each has a transaction of its own.
const CONCURRENT_SINGLES: usize = 8;
/// How many batches begin in locking mode after one met a conflict. One would do, but where two
/// instances want the same rows, or a broker repeats itself, more conflicts are likely to follow.
const LOCKING_BATCHES_AFTER_CONFLICT: u32 = 16;

/// What a service does with commands of one kind.
#[async_trait]
pub trait UseCase: Send + Sync + 'static {
    /// What is asked for.
    type Command: Send + Sync + 'static;
    /// What is answered.
    type Reply: Send + Sync + 'static;

    /// Decides what follows from commands, reading what it has to know.
    ///
    /// What it wants to be written must be a [conflict](Error::Conflict) if what it read, or in
    /// [optimistic](Mode::Optimistic) mode did not read, is no longer so. Then nothing of it is kept,
    /// and it is called again in locking mode.
    ///
    /// # Errors
    /// Nothing of the batch is kept; each command is then tried by itself.
    async fn decide(
        &self,
        reader: &mut Reader,
        mode: Mode,
        commands: &[&Self::Command],
    ) -> Result<Decision<Self::Reply>, Failure>;
}

/// How a use case is asked to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is locked, and it may be assumed that no command was dealt with before.
    Optimistic,
    /// What is read `{for_update}` stays locked, and repeats are likely.
    Locking,
}

/// What follows from commands; all of it is one transaction.
pub struct Decision<R> {
    /// One reply to each command, in order.
    pub replies: Vec<R>,
    /// The statements to run.
    pub writes: Vec<Statement>,
    /// The events to send.
    pub outgoing: Outgoing,
    /// Side effects within this process, run after the commit. Nothing may depend on it, since a crash
    /// can come before it as well as after it.
    pub after_commit: Option<AfterCommit>,
}

/// A side effect that waits for the commit.
pub type AfterCommit = Box<dyn FnOnce() + Send>;

/// Commands that are dealt with together or not at all, and the guard of all of them.
#[derive(Debug)]
pub struct Job<G, C> {
    /// What makes a repeat do nothing.
    pub guard: G,
    /// The commands.
    pub commands: Vec<C>,
}

/// Remembers which jobs were done, in the transaction that does them.
#[async_trait]
pub trait Guard: Send + Sync + Sized + 'static {
    /// What is answered.
    type Reply: Send + Sync + 'static;
    /// What two jobs have in common if one is a repeat of the other.
    type Key: Eq + Hash + Send;

    /// The job's key; `None` if nothing guards it.
    fn key(&self) -> Option<Self::Key>;

    /// For each job that was done before, how.
    ///
    /// # Errors
    /// As the database says.
    async fn find(
        reader: &mut Reader,
        guards: &[&Self],
    ) -> gozon_store::Result<Vec<Option<Done<Self::Reply>>>>;

    /// What marks jobs as done, with the replies to their commands. That one of them is done already
    /// is a conflict.
    fn mark(done: &[(&Self, &[Self::Reply])], now: Timestamp) -> Vec<Statement>;
}

/// A job that is done, and committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<R> {
    /// The replies to its commands.
    pub replies: Vec<R>,
    /// Whether it was done before.
    pub repeated: bool,
}

/// Why a job could not be done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The database's answer.
    #[error(transparent)]
    Store(#[from] Error),
    /// An event can't be read.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
    /// A command can't be dealt with now.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// Whether the environment is at fault: waiting helps, and other jobs would fare no better.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_unavailable())
    }

    /// Whether it says nothing about the job: the environment is at fault, or somebody who holds a
    /// lock.
    pub fn is_circumstance(&self) -> bool {
        matches!(self, Self::Store(Error::Unavailable(_) | Error::Locked(_)))
    }
}

/// What became of a job.
pub type Outcome<R> = Result<Done<R>, Failure>;

/// Runs jobs of one use case against the database of one service.
pub struct Runner<U: UseCase, G: Guard<Reply = U::Reply>> {
    context: Context,
    use_case: Arc<U>,
    /// How many more batches begin in locking mode.
    locking_batches: AtomicU32,
    guard: PhantomData<fn(G)>,
}

impl<U: UseCase, G: Guard<Reply = U::Reply>> Runner<U, G> {
    /// A runner for `use_case`.
    pub fn new(context: Context, use_case: Arc<U>) -> Self {
        Self { context, use_case, locking_batches: AtomicU32::new(0), guard: PhantomData }
    }

    /// Runs jobs, all together if that is possible; what became of each.
    pub async fn run(&self, jobs: &[Job<G, U::Command>]) -> Vec<Outcome<U::Reply>> {
        match self.together(jobs).await {
            Ok(outcomes) => outcomes,
            Err(failure) if failure.is_unavailable() || jobs.len() == 1 => {
                jobs.iter().map(|_| Err(failure.clone())).collect()
            }
            Err(failure) => {
                tracing::debug!(%failure, jobs = jobs.len(), "each job by itself");
                self.singly(jobs).await
            }
        }
    }

    /// Runs jobs in one transaction, and after it those that repeat one of them; what became of each.
    ///
    /// # Errors
    /// None of them is done; or, if the database [went away](Error::Unavailable), that is not known.
    pub async fn together(
        &self,
        jobs: &[Job<G, U::Command>],
    ) -> Result<Vec<Outcome<U::Reply>>, Failure> {
        let one_less = |batches: u32| batches.checked_sub(1);
        let mode = match self.locking_batches.fetch_update(Relaxed, Relaxed, one_less) {
            Ok(_) => Mode::Locking,
            Err(_) => Mode::Optimistic,
        };
        let mut keys = HashSet::new();
        let (firsts, repeats): (Vec<(usize, &Job<_, _>)>, Vec<_>) = jobs
            .iter()
            .enumerate()
            .partition(|(_, job)| job.guard.key().is_none_or(|key| keys.insert(key)));
        let done = self.in_one_transaction(&unindexed(&firsts), mode).await?;
        let mut outcomes: Vec<_> =
            firsts.iter().map(|(i, _)| *i).zip(done.into_iter().map(Ok)).collect();
        if !repeats.is_empty() {
            let repeated = self.each(unindexed(&repeats)).await;
            outcomes.extend(repeats.iter().map(|(i, _)| *i).zip(repeated));
            outcomes.sort_unstable_by_key(|(i, _)| *i);
        }
        Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    /// Runs each job in a transaction of its own; what became of each.
    pub async fn singly(&self, jobs: &[Job<G, U::Command>]) -> Vec<Outcome<U::Reply>> {
        self.each(jobs.iter().collect()).await
    }

    async fn each(&self, jobs: Vec<&Job<G, U::Command>>) -> Vec<Outcome<U::Reply>> {
        let singles: Vec<_> = jobs.into_iter().map(|job| self.single(job)).collect();
        stream::iter(singles).buffered(CONCURRENT_SINGLES).collect().await
    }

    fn single<'a>(&'a self, job: &'a Job<G, U::Command>) -> BoxFuture<'a, Outcome<U::Reply>> {
        let single = async move {
            let mut done = self.in_one_transaction(&[job], Mode::Locking).await?;
            done.pop().ok_or_else(|| Failure::Refused("a job has no outcome".to_owned()))
        };
        single.boxed()
    }

    /// Again while others are in the way.
    async fn in_one_transaction(
        &self,
        jobs: &[&Job<G, U::Command>],
        mut mode: Mode,
    ) -> Result<Vec<Done<U::Reply>>, Failure> {
        let mut retry = Retry::new(&self.context.random);
        loop {
            match self.attempt(jobs, mode).await {
                Err(Failure::Store(error)) if retry.again(&error).await => {
                    tracing::debug!(%error, "a unit of work met a conflict");
                    self.locking_batches.store(LOCKING_BATCHES_AFTER_CONFLICT, Relaxed);
                    mode = Mode::Locking;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt(
        &self,
        jobs: &[&Job<G, U::Command>],
        mode: Mode,
    ) -> Result<Vec<Done<U::Reply>>, Failure> {
        let mut work = match mode {
            Mode::Optimistic => self.context.db.optimistic().await?,
            Mode::Locking => self.context.db.locking().await?,
        };
        let guards: Vec<&G> = jobs.iter().map(|job| &job.guard).collect();
        let mut outcomes = match mode {
            Mode::Optimistic => jobs.iter().map(|_| None).collect(),
            Mode::Locking => G::find(work.reader(), &guards).await?,
        };
        let fresh: Vec<usize> = (0..jobs.len()).filter(|&i| outcomes[i].is_none()).collect();
        if !fresh.is_empty() {
            let commands: Vec<_> = fresh.iter().flat_map(|&i| &jobs[i].commands).collect();
            let decision = self.decide(work.reader(), mode, &commands).await?;
            let mut replies = decision.replies.into_iter();
            let answered: Vec<(usize, Vec<U::Reply>)> = fresh
                .iter()
                .map(|&i| (i, replies.by_ref().take(jobs[i].commands.len()).collect()))
                .collect();
            let done: Vec<(&G, &[U::Reply])> =
                answered.iter().map(|(i, replies)| (guards[*i], &replies[..])).collect();
            let marks = G::mark(&done, self.context.clock.now());
            let added = self.context.outbox.add(decision.outgoing);
            let mut after_commit = decision.after_commit;
            if mutation!("side effects before the commit") {
                after_commit.take().into_iter().for_each(|effect| effect());
            }
            self.commit(work, decision.writes, marks, added.statement()).await?;
            // Nothing below may fail: it is committed.
            if let Some(after_commit) = after_commit
                && catch_unwind(AssertUnwindSafe(after_commit)).is_err()
            {
                tracing::error!("a use case panicked after the commit");
            }
            added.committed();
            for (i, replies) in answered {
                outcomes[i] = Some(Done { replies, repeated: false });
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Commits what was decided, with the guards' marks and the batch that goes out.
    async fn commit(
        &self,
        work: Work,
        mut writes: Vec<Statement>,
        marks: Vec<Statement>,
        message: Option<Statement>,
    ) -> gozon_store::Result<()> {
        if mutation!("a commit for the mark, one for the effect") && !marks.is_empty() {
            work.commit(marks).await?;
            writes.extend(message);
            return self.context.db.optimistic().await?.commit(writes).await;
        }
        // Marks last: who locks what it reads has those rows first too, and if some take marks
        // first and others rows, two repeats of one job wait for each other in a circle.
        writes.extend(marks);
        if mutation!("a commit for the effect, one for the message") && !writes.is_empty() {
            work.commit(writes).await?;
            return self.context.db.optimistic().await?.commit(Vec::from_iter(message)).await;
        }
        writes.extend(message);
        match work.commit(writes).await {
            Err(Error::Unavailable(_)) if mutation!("errors of the commit ignored") => Ok(()),
            committed => committed,
        }
    }

    /// A panic is a failure of that batch, not the end of the loop that runs it.
    async fn decide(
        &self,
        reader: &mut Reader,
        mode: Mode,
        commands: &[&U::Command],
    ) -> Result<Decision<U::Reply>, Failure> {
        let decided = AssertUnwindSafe(self.use_case.decide(reader, mode, commands))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(Failure::Refused("the use case panicked".to_owned())))?;
        if decided.replies.len() == commands.len() {
            return Ok(decided);
        }
        Err(Failure::Refused("the use case did not reply to each command".to_owned()))
    }
}

fn unindexed<T: Copy>(indexed: &[(usize, T)]) -> Vec<T> {
    indexed.iter().map(|(_, value)| *value).collect()
}

impl<R> Decision<R> {
    /// Replies, and nothing else.
    pub fn replies(replies: Vec<R>) -> Self {
        Self { replies, writes: Vec::new(), outgoing: Outgoing::default(), after_commit: None }
    }
}
