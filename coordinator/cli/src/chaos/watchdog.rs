//! Waiting for something, as long as anything moves: no fixed time bounds a run, but a standstill does.

use std::time::{Duration, Instant};

use super::journal::Journal;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long one thing is waited for while it makes no progress.
pub(super) struct Watchdog<'a> {
    journal: &'a Journal,
    patience: Duration,
    moved: Instant,
}

impl<'a> Watchdog<'a> {
    pub(super) fn new(journal: &'a Journal, patience: Duration) -> Self {
        Self {
            journal,
            patience,
            moved: Instant::now(),
        }
    }

    /// It has made progress.
    pub(super) fn moved(&mut self) {
        self.moved = Instant::now();
        self.journal.progressed();
    }

    /// Waits a moment. False where it has been stopped, or `what` has not moved for too long, which is a violation.
    pub(super) async fn goes_on(&self, what: impl FnOnce() -> String) -> bool {
        if self.moved.elapsed() > self.patience {
            let seconds = self.patience.as_secs();
            let stuck = format!("{} has not moved for {seconds} s", what());
            self.journal.violated(stuck);
        }
        tokio::select! {
            () = self.journal.stop.cancelled() => false,
            () = tokio::time::sleep(LOOK_EVERY) => true,
        }
    }
}
