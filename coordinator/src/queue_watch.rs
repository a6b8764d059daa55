//! The depth of every queue as a metric of the coordinator's: where a stage has no worker, nobody else tells it.

use std::time::Duration;

use radialog_runtime::backends::Backends;
use radialog_runtime::metrics::metrics;
use radialog_runtime::queue::{Queue, QueueError};
use radialog_schemas::queues::RETRY_DELAYS;
use radialog_schemas::{QueueGroup, Stage, queues};
use tokio::time::{MissedTickBehavior, interval};

/// As often as Prometheus looks, or oftener.
const EVERY: Duration = Duration::from_secs(15);

/// Publishes the depths of the work queues and of the queue of turns, of no group and of every group that work is given to,
/// until it is dropped.
pub async fn watch_queues(backends: Backends) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut groups = Vec::new();
    loop {
        ticks.tick().await;
        match backends.state.groups().await {
            Ok(noted) => groups = noted,
            Err(error) => tracing::debug!(%error, "groups of queues are as before"),
        }
        tell(&*backends.queue, None).await;
        for group in &groups {
            tell(&*backends.queue, Some(group)).await;
        }
    }
}

/// Publishes what waits in a group's queues, and what waits for another attempt.
async fn tell(queue: &dyn Queue, group: Option<&QueueGroup>) {
    let told = metrics().queues();
    let stages = Stage::ALL.map(|stage| (stage.name(), queues::work(stage)));
    for (label, name) in stages.into_iter().chain([("chat", queues::CHAT)]) {
        let name = queues::in_group(name, group);
        match depth(queue, &name).await {
            Ok(depth) => told.wait(label, group, depth),
            Err(error) => tracing::debug!(%error, %name, "the depth of the queue is unknown"),
        }
        match retrying(queue, &name).await {
            Ok(depth) => told.wait_again(label, group, depth),
            Err(error) => tracing::debug!(%error, %name, "what is tried again is unknown"),
        }
    }
}

/// How many messages a queue has; none where it is not there.
async fn depth(queue: &dyn Queue, name: &str) -> Result<Option<u64>, QueueError> {
    match queue.depth(name).await {
        Ok(depth) => Ok(Some(depth)),
        Err(QueueError::NoQueue(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many messages of a queue have failed and wait for their next attempt; none where there is no such queue.
///
/// # Errors
/// When the broker does not answer.
pub async fn retrying(queue: &dyn Queue, name: &str) -> Result<Option<u64>, QueueError> {
    let mut all = None;
    for step in 0..RETRY_DELAYS.len() {
        if let Some(depth) = depth(queue, &queues::retry(name, step)).await? {
            *all.get_or_insert(0) += depth;
        }
    }
    Ok(all)
}
