//! Poison messages: those that kill their workers. A worker that dies takes no note of what killed it, and the broker
//! gives the same message to the next one, together with innocent neighbours. So a message that came back more than once is
//! suspected: suspected messages run one at a time, and before one runs, its next attempt already waits in a retry queue.
//! Whoever dies on it has counted an attempt by that; whoever survives finds the attempt needless later, at the price of a
//! look into the object store.

use radialog_schemas::queues::{self, RETRY_DELAYS};
use radialog_schemas::{ErrorCode, Failure};
use tokio::sync::MutexGuard;

use super::delivery::InFlightDelivery;
use super::error::TaskError;
use super::worker::Worker;
use crate::queue::QueueError;
use crate::stage::StageWork;

/// Coming back once happens to every message that a dying, stopping or disconnected worker held.
const SUSPICIOUS_DELIVERY_COUNT: u32 = 2;

/// Keeps other suspected poison messages out of the model.
pub(super) type IsolationGuard<'a> = MutexGuard<'a, ()>;

/// Isolates a suspected poison message: waits until no other one is in the model, queues the next attempt and acknowledges
/// this one. Returns none for other messages. A suspected message without attempts left has failed.
pub(super) async fn isolate<'a, W: StageWork>(
    worker: &'a Worker<W>,
    delivery: &mut InFlightDelivery,
) -> Result<Option<IsolationGuard<'a>>, TaskError> {
    let delivery_count = delivery.delivery_count;
    if delivery_count < SUSPICIOUS_DELIVERY_COUNT {
        return Ok(None);
    }
    if delivery.message.attempt as usize >= RETRY_DELAYS.len() {
        let message = format!(
            "the workers that had this task went away {delivery_count} times; it may be what kills them"
        );
        return Err(TaskError::Failed(Failure::new(ErrorCode::Crash, message)));
    }
    let guard = worker.unless_stopping(worker.poison_lock.lock()).await?;
    tracing::warn!(
        delivery_count,
        "the task came back more than once and may be a poison message; it runs alone, its next attempt is queued"
    );
    queue_retry_first(worker, delivery).await.map_err(|error| {
        tracing::warn!(%error, "the next attempt of a suspected poison message could not be queued");
        TaskError::Requeue("the broker is away")
    })?;
    Ok(Some(guard))
}

async fn queue_retry_first<W: StageWork>(
    worker: &Worker<W>,
    delivery: &mut InFlightDelivery,
) -> Result<(), QueueError> {
    worker
        .queue
        .publish(
            &queues::retry(&delivery.source, delivery.message.attempt as usize),
            delivery.next_try(ErrorCode::Crash),
        )
        .await?;
    match delivery.receipt.take() {
        Some(receipt) => receipt.ack().await,
        None => Ok(()),
    }
}
