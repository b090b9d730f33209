//! The loops of a process: the order in which they stop, and what happens when one fails.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// When a loop stops, once the process is to stop. Each stage is complete before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Closes the live streams; requests are still being finished.
    Streams,
    /// Answers what was accepted.
    Requests,
    /// Sends what was committed; its receivers still run.
    Relays,
    /// Finishes what was received.
    Inboxes,
}

/// The loops of a process. Clones are the same loops.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    stages: [(CancellationToken, TaskTracker); 4],
    failed: CancellationToken,
}

impl Tasks {
    /// The token that tells loops of this stage to stop.
    pub fn stop_token(&self, stage: Stage) -> CancellationToken {
        self.stages[stage as usize].0.clone()
    }

    /// Runs a loop that ends when its stage's token is cancelled. If it ends before, or panics, the
    /// process can't do its work any more, and says so through [`Tasks::failed`].
    pub fn spawn(
        &self,
        stage: Stage,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let (stop, tracker) = &self.stages[stage as usize];
        let (stop, failed) = (stop.clone(), self.failed.clone());
        gozon_seam::spawn(tracker.track_future(async move {
            let panicked = AssertUnwindSafe(task).catch_unwind().await.is_err();
            if panicked || !stop.is_cancelled() {
                tracing::error!(
                    task = name,
                    panicked,
                    "a loop has ended; this process must end too"
                );
                failed.cancel();
            }
        }));
    }

    /// Cancelled when a loop has ended that should not have: the process must end, so that its
    /// supervisor starts it anew.
    pub fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// Stops the loops of a stage. Those before it have stopped.
    pub async fn stop_stage(&self, stage: Stage) {
        let (token, tracker) = &self.stages[stage as usize];
        token.cancel();
        tracker.close();
        tracker.wait().await;
    }

    /// Stops every loop, stage by stage.
    pub async fn stop(&self) {
        for stage in [Stage::Streams, Stage::Requests, Stage::Relays, Stage::Inboxes] {
            self.stop_stage(stage).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_panics_fails_the_process() {
        let tasks = Tasks::default();
        let stop = tasks.stop_token(Stage::Relays);
        tasks.spawn(Stage::Relays, "good", async move { stop.cancelled().await });
        assert!(!tasks.failed().is_cancelled());
        tasks.spawn(Stage::Requests, "bad", async { panic!("as the test wants it") });
        tasks.failed().cancelled().await;
    }

    #[tokio::test]
    async fn loops_that_stop_when_told_are_no_failure() {
        let tasks = Tasks::default();
        let stop = tasks.stop_token(Stage::Inboxes);
        tasks.spawn(Stage::Inboxes, "good", async move { stop.cancelled().await });
        tasks.stop().await;
        assert!(!tasks.failed().is_cancelled());
    }
}
