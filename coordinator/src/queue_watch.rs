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
            Ok(noted) => {
                for group in groups.iter().filter(|group| !noted.contains(group)) {
                    forget(group);
                }
                groups = noted;
            }
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
    for (label, name) in watched() {
        let name = queues::in_group(name, group);
        match depth(queue, &name).await {
            Ok(Some(depth)) => told.wait(label, group, Some(depth)),
            // Of a group that was given up: each further question is an error in the broker's log.
            Ok(None) => {
                told.wait(label, group, None);
                told.wait_again(label, group, None);
                continue;
            }
            Err(error) => tracing::debug!(%error, %name, "the depth of the queue is unknown"),
        }
        match retrying(queue, &name).await {
            Ok(depth) => told.wait_again(label, group, depth),
            Err(error) => tracing::debug!(%error, %name, "what is tried again is unknown"),
        }
    }
}

/// The queues of work and of turns, each with its label.
fn watched() -> impl Iterator<Item = (&'static str, &'static str)> {
    let stages = Stage::ALL.map(|stage| (stage.name(), queues::work(stage)));
    stages.into_iter().chain([("chat", queues::CHAT)])
}

/// Tells nothing more of a group.
fn forget(group: &QueueGroup) {
    let told = metrics().queues();
    for (label, _) in watched() {
        told.wait(label, Some(group), None);
        told.wait_again(label, Some(group), None);
    }
}

/// How many messages a queue has; none where it is not there.
///
/// # Errors
/// When the broker does not answer.
pub async fn depth(queue: &dyn Queue, name: &str) -> Result<Option<u64>, QueueError> {
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use radialog_runtime::queue::memory::MemoryQueue;
    use radialog_runtime::queue::{Consumer, Delivery, Message};

    use super::*;

    /// A broker that remembers which queues it was asked about.
    #[derive(Default)]
    struct Asked {
        queue: MemoryQueue,
        names: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Queue for Asked {
        async fn declare(&self) -> Result<(), QueueError> {
            self.queue.declare().await
        }

        async fn declare_group(&self, group: &QueueGroup) -> Result<(), QueueError> {
            self.queue.declare_group(group).await
        }

        async fn publish(&self, queue: &str, message: Message) -> Result<(), QueueError> {
            self.queue.publish(queue, message).await
        }

        async fn consume(
            &self,
            queue: &str,
            prefetch: u16,
        ) -> Result<Box<dyn Consumer>, QueueError> {
            self.queue.consume(queue, prefetch).await
        }

        async fn take(&self, queue: &str) -> Result<Option<Delivery>, QueueError> {
            self.queue.take(queue).await
        }

        async fn depth(&self, queue: &str) -> Result<u64, QueueError> {
            self.names.lock().unwrap().push(queue.to_owned());
            self.queue.depth(queue).await
        }
    }

    #[tokio::test]
    async fn of_a_group_whose_queues_are_deleted_only_their_names_are_asked_for() {
        let broker = Asked::default();
        let [gone, there] = ["gone", "there"].map(|name| name.parse::<QueueGroup>().unwrap());
        broker.declare_group(&there).await.unwrap();
        let asked = async |group: &QueueGroup| {
            tell(&broker, Some(group)).await;
            std::mem::take(&mut *broker.names.lock().unwrap())
        };
        let queues: Vec<String> = queues::of_group(Some(&gone)).collect();
        assert_eq!(asked(&gone).await, queues);
        assert_eq!(
            asked(&there).await.len(),
            queues.len() * (1 + RETRY_DELAYS.len())
        );
    }
}
