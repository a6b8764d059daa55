//! The depth of every queue as a metric of the coordinator's: where a stage has no worker, nobody else tells it.

use std::sync::Arc;
use std::time::Duration;

use radialog_runtime::metrics::metrics;
use radialog_runtime::queue::Queue;
use radialog_schemas::{Stage, queues};
use tokio::time::{MissedTickBehavior, interval};

/// As often as Prometheus looks, or oftener.
const EVERY: Duration = Duration::from_secs(15);

/// Publishes the depths of the work queues and of the queue of turns, of no group, until it is dropped.
pub async fn watch_queues(queue: Arc<dyn Queue>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let stages = Stage::ALL.map(|stage| (stage.name(), queues::work(stage)));
        for (label, name) in stages.into_iter().chain([("chat", queues::CHAT)]) {
            match queue.depth(name).await {
                Ok(depth) => metrics().waits(label, depth),
                Err(error) => tracing::debug!(%error, name, "the depth of the queue is unknown"),
            }
        }
    }
}
