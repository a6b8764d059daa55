//! How long the stage takes for one item, and how many deliveries it may therefore prefetch. A broker takes back what is not
//! acknowledged within its timeout (30 minutes by default), so a slow stage must hold less than a fast one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The longest that a delivery may wait for its acknowledgement: a third of RabbitMQ's default timeout.
const HOLD_LIMIT: Duration = Duration::from_secs(600);
/// Weight of the newest measurement.
const NEWEST: f64 = 0.1;

/// Moving average of a stage's time for one item.
#[derive(Default)]
pub(super) struct ServiceTime {
    /// Seconds, as bits; 0 while nothing is measured.
    average: AtomicU64,
}

impl ServiceTime {
    /// Takes in the model's time for one item, a batch's time shared evenly.
    pub(super) fn record(&self, item: Duration) {
        let average = self.seconds();
        let item = item.as_secs_f64();
        let next = if average == 0.0 {
            item
        } else {
            average + NEWEST * (item - average)
        };
        // Two racing updates may lose one measurement of many.
        self.average.store(next.to_bits(), Ordering::Relaxed);
    }

    /// The measured time of one item; zero while nothing is measured.
    pub(super) fn average(&self) -> Duration {
        Duration::from_secs_f64(self.seconds())
    }

    /// The number of deliveries to prefetch: two batches, one in the model and one being fetched, or less where they would wait
    /// for longer than the broker allows.
    pub(super) fn prefetch(&self, batch_limit: usize) -> u16 {
        let two_batches = u16::try_from(batch_limit.saturating_mul(2))
            .unwrap_or(u16::MAX)
            .max(2);
        let average = self.seconds();
        if average == 0.0 {
            return two_batches;
        }
        let in_time = (HOLD_LIMIT.as_secs_f64() / average).min(f64::from(u16::MAX)) as u16;
        two_batches.min(in_time).max(1)
    }

    /// Returns another prefetch than the current one, where the measured time asks for one that differs by more than a
    /// quarter: a change costs a new subscription.
    pub(super) fn changed_prefetch(&self, current: u16, batch_limit: usize) -> Option<u16> {
        let wanted = self.prefetch(batch_limit);
        (u32::from(wanted.abs_diff(current)) * 4 > u32::from(current)).then_some(wanted)
    }

    fn seconds(&self) -> f64 {
        f64::from_bits(self.average.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_stage_holds_two_batches_and_a_slow_one_what_it_can_do_in_time() {
        let fast = ServiceTime::default();
        assert_eq!(fast.prefetch(16), 32);
        fast.record(Duration::from_millis(5));
        assert_eq!(fast.prefetch(16), 32);
        let slow = ServiceTime::default();
        slow.record(Duration::from_secs(40));
        assert_eq!(
            slow.prefetch(32),
            15,
            "64 tasks of 40 s would be past the broker's timeout"
        );
        let slower = ServiceTime::default();
        slower.record(Duration::from_secs(3600));
        assert_eq!(slower.prefetch(32), 1);
        assert_eq!(
            slow.changed_prefetch(16, 32),
            None,
            "not worth a new subscription"
        );
        assert_eq!(slow.changed_prefetch(64, 32), Some(15));
    }

    #[test]
    fn the_average_follows_the_stage() {
        let stage = ServiceTime::default();
        stage.record(Duration::from_secs(1));
        for _ in 0..100 {
            stage.record(Duration::from_secs(3));
        }
        assert!((stage.average().as_secs_f64() - 3.0).abs() < 0.01);
    }
}
