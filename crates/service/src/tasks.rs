//! The loops of a process, and the order in which they stop.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// When a loop stops, once the process takes no more requests. Each stage is complete before the
/// next one is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Answers what was accepted.
    Writers,
    /// Sends what was committed; whoever receives it is still there.
    Relays,
    /// Finishes what was received.
    Inboxes,
}

/// The loops of a process.
#[derive(Debug, Default)]
pub struct Tasks {
    stages: [(CancellationToken, TaskTracker); 3],
}

impl Tasks {
    /// The token that tells loops of this stage to stop.
    pub fn stop_token(&self, stage: Stage) -> CancellationToken {
        self.stages[stage as usize].0.clone()
    }

    /// Runs a loop that ends when its stage's token is cancelled.
    pub fn spawn(&self, stage: Stage, task: impl Future<Output = ()> + Send + 'static) {
        self.stages[stage as usize].1.spawn(task);
    }

    /// Stops every loop, stage by stage.
    pub async fn stop(&self) {
        for (token, tracker) in &self.stages {
            token.cancel();
            tracker.close();
            tracker.wait().await;
        }
    }
}
