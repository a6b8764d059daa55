//! What is told of the broker's queues, of no group and of each.

use prometheus::{IntGauge, IntGaugeVec, Registry};
use radialog_schemas::QueueGroup;

use super::{group_label, int_gauges};

/// Messages that wait, by stage, or `chat` of turns, and by the group of workers that they wait for.
pub struct QueueMetrics {
    depth: IntGaugeVec,
    retrying: IntGaugeVec,
}

impl QueueMetrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| {
            let help = format!("{help}; worker_group=GROUP: for workers of a further bundle");
            let labels = ["stage", "worker_group"];
            int_gauges(registry, name, &help, &labels)
        };
        Self {
            depth: gauge(
                "radialog_queue_depth_messages",
                "Messages that wait, without those in flight",
            ),
            retrying: gauge(
                "radialog_queue_retrying_messages",
                "Messages that have failed and wait for their next attempt",
            ),
        }
    }

    /// Sets how many messages wait for a stage, or `chat` of turns, of a group's workers. None where the queue is not there.
    pub fn wait(&self, stage: &str, group: Option<&QueueGroup>, messages: Option<u64>) {
        set(&self.depth, [stage, group_label(group)], messages);
    }

    /// Sets how many messages that have failed wait for their next attempt, as [`QueueMetrics::wait`] does.
    pub fn wait_again(&self, stage: &str, group: Option<&QueueGroup>, messages: Option<u64>) {
        set(&self.retrying, [stage, group_label(group)], messages);
    }

    pub(super) fn depth_of(&self, stage: &str, group: Option<&QueueGroup>) -> IntGauge {
        self.depth.with_label_values(&[stage, group_label(group)])
    }
}

fn set(gauges: &IntGaugeVec, labels: [&str; 2], messages: Option<u64>) {
    match messages {
        Some(messages) => gauges
            .with_label_values(&labels)
            .set(i64::try_from(messages).unwrap_or(i64::MAX)),
        // Fails where nothing was told of it before.
        None => drop(gauges.remove_label_values(&labels)),
    }
}
