//! What has happened so far: faults, recoveries, what the workload got done, and the first thing that must not have
//! happened, which ends the run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use radialog_schemas::ObjectKey;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::schedule::{Fault, FaultKind};

/// Everything that is counted.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) faults: BTreeMap<FaultKind, u64>,
    /// Steps of the order of faults, of one or two faults each, after which work went on.
    pub(crate) recoveries: Vec<Recovery>,
    /// Roles that ended although nobody had told them to, and were started again.
    pub(crate) own_exits: BTreeMap<String, u64>,
    pub(crate) rounds: u64,
    /// Studies that were asked for, in all rounds.
    pub(crate) studies: u64,
    /// Lines that were written.
    pub(crate) lines: u64,
    /// Studies of an earlier round that were asked for again, after their objects could have been damaged.
    pub(crate) studies_again: u64,
    pub(crate) objects_checked: u64,
    pub(crate) conversations: u64,
    pub(crate) turns: u64,
    pub(crate) events: u64,
    /// Responses in the background, read to their end.
    pub(crate) responses: u64,
    /// Batches of requests, and their lines.
    pub(crate) batches: u64,
    pub(crate) batch_lines: u64,
    /// Files of requests that were sent, those included whose answer was lost.
    pub(crate) uploads: u64,
    /// Times that a reader lost its stream and went on elsewhere.
    pub(crate) streams_resumed: u64,
    /// Dead letters about objects that were deleted or damaged here: copies of tasks that had been done.
    pub(crate) dead_letters: u64,
}

/// The time from the end of a fault until the role that was hit is ready and work goes on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Recovery {
    pub(crate) fault: String,
    pub(crate) seconds: f64,
}

/// The journal of a run, which all its parts write.
pub(crate) struct Journal {
    counts: Mutex<Counts>,
    progress: AtomicU64,
    last: Mutex<Instant>,
    violations: Mutex<Vec<String>>,
    taken: Mutex<BTreeSet<ObjectKey>>,
    /// Cancelled when something must not have happened, or a person has stopped the run: everything ends.
    pub(crate) stop: CancellationToken,
    /// Cancelled when the time is over: what is begun is brought to its end.
    pub(crate) closing: CancellationToken,
}

impl Journal {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self {
            counts: Mutex::default(),
            progress: AtomicU64::default(),
            last: Mutex::new(Instant::now()),
            violations: Mutex::default(),
            taken: Mutex::default(),
            closing: stop.child_token(),
            stop,
        }
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line is written, or an event has come.
    pub(crate) fn progressed(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How much was done so far.
    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    pub(crate) fn happened(&self, fault: &Fault) {
        *self.counts().faults.entry(fault.kind).or_default() += 1;
    }

    pub(crate) fn recovered(&self, fault: String, after: Duration) {
        let seconds = after.as_secs_f64();
        self.counts().recoveries.push(Recovery { fault, seconds });
    }

    /// Notes what must not have happened, and ends the run: what is there then can be looked at.
    pub(crate) fn violated(&self, what: impl Into<String>) {
        let mut violations = self
            .violations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        violations.push(what.into());
        self.stop.cancel();
    }

    /// An object is deleted or damaged by us, though copies of tasks that have been done may still name it.
    pub(crate) fn takes(&self, key: &ObjectKey) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(key.clone());
    }

    /// Whether we have ever deleted or damaged this object.
    pub(crate) fn has_taken(&self, key: &ObjectKey) -> bool {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.contains(key)
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
