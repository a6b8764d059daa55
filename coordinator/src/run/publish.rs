//! The messages that a coordinator gives to the workers' queues.

use radialog_runtime::backends::Backends;
use radialog_runtime::queue::{Message, Queue, QueueError};
use radialog_schemas::{ChatTask, Task, queues};
use serde::Serialize;

/// Publishes a task to the queue of its stage and group.
///
/// # Errors
/// When the broker does not confirm; publishing again is harmless.
pub(crate) async fn publish_task(queue: &dyn Queue, task: &Task) -> Result<(), QueueError> {
    let name = queues::in_group(queues::work(task.work.stage()), task.group.as_ref());
    publish_json(queue, &name, task).await
}

/// Publishes a turn that is ready to its queue.
///
/// # Errors
/// When the broker does not confirm; publishing again is harmless.
pub async fn publish_turn(backends: &Backends, task: &ChatTask) -> Result<(), QueueError> {
    publish_json(&*backends.queue, &task.queue(), task).await
}

async fn publish_json(
    queue: &dyn Queue,
    name: &str,
    task: &(impl Serialize + Sync),
) -> Result<(), QueueError> {
    let body = serde_json::to_vec(task).expect("a task has string keys only");
    let message = Message {
        body: body.into(),
        ..Message::default()
    };
    queue.publish(name, message).await
}
