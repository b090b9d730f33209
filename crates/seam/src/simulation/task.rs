//! A task of a simulated process.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{
    task::JoinHandle,
    time::{Sleep, sleep},
};

use super::{NEXT_TASK, Process, State, current, world};

/// Spawns a task that belongs to the process of its maker.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let Some(process) = current() else { return tokio::spawn(future) };
    let id = NEXT_TASK.replace(NEXT_TASK.get() + 1);
    let body = Arc::new(Mutex::new(Some(Box::pin(future))));
    process.with(|record| record.tasks.insert(id, Arc::clone(&body) as Arc<dyn Kill>));
    tokio::spawn(Task { process, id, body, lag: None })
}

/// Spawns for libraries that ask for an executor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Executor;

impl Executor {
    /// The executor of the process that uses it.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        spawn(future);
    }
}

/// What can be ended from outside.
pub(super) trait Kill: Send + Sync {
    fn kill(&self);
}

type Body<F> = Mutex<Option<Pin<Box<F>>>>;

impl<F: Send> Kill for Body<F> {
    fn kill(&self) {
        let body = self.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(body);
    }
}

struct Task<F: Future> {
    process: Process,
    id: u64,
    body: Arc<Body<F>>,
    /// The wait for a processor, once the task was woken.
    lag: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let process = self.process;
        let state = process.with(|record| {
            if record.state == State::Paused {
                record.parked.push(context.waker().clone());
            }
            record.state
        });
        if state != State::Running {
            return Poll::Pending;
        }
        if let Some(lag) = &mut self.lag {
            ready!(lag.as_mut().poll(context));
            self.lag = None;
        } else if let Some(wait) = world(|world| world.lag()).filter(|wait| !wait.is_zero()) {
            let mut lag = Box::pin(sleep(wait));
            if lag.as_mut().poll(context).is_pending() {
                self.lag = Some(lag);
                return Poll::Pending;
            }
        }
        let polled = process.run(|| {
            let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(future) = body.as_mut() else { return Poll::Pending };
            let polled = future.as_mut().poll(context);
            if polled.is_ready() {
                *body = None;
            }
            polled
        });
        if polled.is_ready() {
            process.with(|record| record.tasks.remove(&self.id));
        }
        polled
    }
}
