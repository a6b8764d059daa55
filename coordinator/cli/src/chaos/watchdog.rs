//! Waiting for something, as long as anything moves: no fixed time bounds a run, but a standstill does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::journal::Journal;

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A person who looks on is told so often what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How long one thing is waited for while it makes no progress.
pub(super) struct Watchdog<'a> {
    journal: &'a Journal,
    patience: Duration,
    moved: Instant,
    told: AtomicU64,
}

impl<'a> Watchdog<'a> {
    pub(super) fn new(journal: &'a Journal, patience: Duration) -> Self {
        Self {
            journal,
            patience,
            moved: Instant::now(),
            told: AtomicU64::new(0),
        }
    }

    /// It has made progress.
    pub(super) fn moved(&mut self) {
        self.moved = Instant::now();
        *self.told.get_mut() = 0;
        self.journal.progressed();
    }

    /// Waits a moment. False where it has been stopped, or `what` has not moved for too long, which is a violation.
    pub(super) async fn goes_on(&self, what: impl FnOnce() -> String) -> bool {
        let still = self.moved.elapsed();
        let told = still.as_secs() / TELL_EVERY.as_secs();
        if still > self.patience {
            let seconds = self.patience.as_secs();
            let stuck = format!("{} has not moved for {seconds} s", what());
            self.journal.violated(stuck);
        } else if self.told.fetch_max(told, Ordering::Relaxed) < told {
            errln!("chaos: {} has not moved for {} s", what(), still.as_secs());
        }
        moment(self.journal).await
    }
}

/// Waits a moment. False where the run has been stopped.
pub(super) async fn moment(journal: &Journal) -> bool {
    tokio::select! {
        () = journal.stop.cancelled() => false,
        () = tokio::time::sleep(LOOK_EVERY) => true,
    }
}
