//! What a gateway tells of batches of requests.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::{count, counts, int_gauge};

/// Batches of requests, as one gateway sees them.
pub struct RequestBatchMetrics {
    /// The batches in the store that have not ended, of whomever.
    pub open: IntGauge,
    /// Those that this gateway works on.
    pub running: IntGauge,
    /// Those that could be worked on, and find no place, or rest after their work failed.
    pub waiting: IntGauge,
    /// Counts work on a batch that broke off and begins again.
    pub retries: IntCounter,
    lines: IntCounterVec,
}

impl RequestBatchMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| int_gauge(registry, name, help);
        Self {
            open: gauge(
                "radialog_request_batches_open_items",
                "Batches of requests in the store that have not ended",
            ),
            running: gauge(
                "radialog_request_batches_running_items",
                "Batches of requests that this gateway works on",
            ),
            waiting: gauge(
                "radialog_request_batches_waiting_items",
                "Batches of requests that could be worked on and find no place, or rest after their work failed",
            ),
            retries: count(
                registry,
                "radialog_request_batches_retries_total",
                "Work on a batch of requests that broke off and begins again",
            ),
            lines: counts(
                registry,
                "radialog_request_batches_lines_total",
                "Lines of batches of requests whose outputs were written, by outcome",
                &["outcome"],
            ),
        }
    }

    /// Counts lines whose outputs were written: answered, refused, or out of time.
    pub fn wrote(&self, done: u64, failed: u64, are_late: bool) {
        let lines = |outcome: &str| self.lines.with_label_values(&[outcome]);
        lines("done").inc_by(done);
        lines(if are_late { "expired" } else { "failed" }).inc_by(failed);
    }
}
