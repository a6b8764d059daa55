//! The messages that a coordinator gives to the workers' queues.

use radialog_runtime::backends::Backends;
use radialog_runtime::queue::{Message, Queue, QueueError};
use radialog_schemas::{ChatTask, ContentHash, ConversationId, Task, queues};
use serde::Serialize;

/// Publishes a task to the queue of its stage.
///
/// # Errors
/// When the broker does not confirm; publishing again is harmless.
pub(crate) async fn publish_task(queue: &dyn Queue, task: &Task) -> Result<(), QueueError> {
    publish_json(queue, queues::work(task.work.stage()), task).await
}

/// Publishes a turn that is ready to the chat queue.
///
/// # Errors
/// When the broker does not confirm; publishing again is harmless.
pub async fn publish_turn(
    backends: &Backends,
    conversation: &ConversationId,
    turn: u32,
    component: &ContentHash,
) -> Result<(), QueueError> {
    let task = ChatTask::new(conversation, turn, component);
    publish_json(&*backends.queue, queues::CHAT, &task).await
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
