//! The end of every delivery: what is published, and then how the delivery is settled. Whatever must not be lost is
//! published and confirmed before the acknowledgement.

use std::time::Duration;

use radialog_schemas::queues;
use radialog_schemas::{
    ErrorClass, ErrorCode, Failure, Outcome, SCHEMA_VERSION, StageResult, StageTimings, Task,
};

use super::delivery::InFlightDelivery;
use super::message::Subject;
use super::worker::Worker;
use crate::queue::{Death, Message, QueueError};
use crate::stage::StageWork;

/// A broker that refuses a message says so at once; without a pause the delivery would go in circles.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// What came of a task.
pub(super) enum TaskOutcome {
    /// The task's output is in the store.
    Done(Task),
    /// It could not be done.
    Failed {
        failure: Failure,
        /// Whose result it is, where that is known.
        subject: Option<Subject>,
        /// Whether its objects are a conversation's, and go with it.
        is_of_conversation: bool,
    },
    /// Somebody else should do it, for this reason.
    Requeue(&'static str),
    /// Somebody else should do it, and this worker has not begun.
    HandBack,
}

/// The way in which a delivery is settled.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Settlement {
    /// The message is done with.
    Acknowledge,
    /// Somebody else should have it.
    Requeue,
}

/// Publishes what follows from the outcome, then settles. A broker that does not take the messages gets the delivery back:
/// it comes again, and finds the output stored.
pub(super) async fn publish_and_settle<W: StageWork>(
    worker: &Worker<W>,
    delivery: InFlightDelivery,
    outcome: TaskOutcome,
    timings: StageTimings,
) {
    let published = publish_outcome(worker, &delivery, outcome, timings).await;
    settle(worker, delivery, published).await;
}

/// Settles a delivery. One whose messages could not be published goes back to its queue.
pub(super) async fn settle<W: StageWork>(
    worker: &Worker<W>,
    mut delivery: InFlightDelivery,
    published: Result<Settlement, QueueError>,
) {
    let settlement = match published {
        Ok(settlement) => settlement,
        Err(error) => {
            tracing::warn!(%error, "the outcome could not be published; requeueing the task");
            // Cut short by a stop, which is as good a moment to go on.
            let _ = worker
                .unless_stopping(tokio::time::sleep(REFUSAL_PAUSE))
                .await;
            Settlement::Requeue
        }
    };
    let Some(receipt) = delivery.receipt.take() else {
        return;
    };
    let settled = match settlement {
        Settlement::Acknowledge => receipt.ack().await,
        Settlement::Requeue => receipt.requeue().await,
    };
    if let Err(error) = settled {
        tracing::debug!(%error, "the delivery went with its connection; the broker delivers it again");
    }
}

async fn publish_outcome<W: StageWork>(
    worker: &Worker<W>,
    delivery: &InFlightDelivery,
    outcome: TaskOutcome,
    timings: StageTimings,
) -> Result<Settlement, QueueError> {
    match outcome {
        TaskOutcome::Done(task) => {
            let done = Outcome::Done {
                output: task.output.clone(),
            };
            publish_result(worker, delivery, task.into(), done, timings).await?;
        }
        TaskOutcome::Requeue(reason) => {
            tracing::debug!(reason, "requeueing the task");
            return Ok(Settlement::Requeue);
        }
        TaskOutcome::HandBack => return hand_back(worker, delivery).await,
        TaskOutcome::Failed {
            failure,
            subject,
            is_of_conversation,
        } => {
            let is_final = is_final_for_the_study(failure.code)
                || is_of_conversation && failure.code == ErrorCode::ObjectMissing;
            worker.metrics.failure(failure.code);
            let retry = delivery.message.tries(failure.code);
            match failure.class() {
                ErrorClass::Transient if delivery.is_retry_queued() => {
                    tracing::warn!(%failure, "the suspected poison message failed; its next attempt is queued already");
                }
                ErrorClass::Transient if retry < failure.code.retries() => {
                    tracing::warn!(%failure, delay_s = queues::retry_delay(retry).as_secs(), "the task failed; trying again");
                    worker.metrics.retries.inc();
                    worker
                        .queue
                        .publish(
                            &queues::retry(&delivery.source, retry),
                            delivery.next_try(failure.code),
                        )
                        .await?;
                }
                ErrorClass::Permanent if is_final => {
                    tracing::info!(%failure, "the study cannot be done");
                    publish_failure(worker, delivery, subject, failure, timings).await?;
                }
                ErrorClass::Transient | ErrorClass::Permanent => {
                    tracing::error!(%failure, "the task is given up and dead-lettered");
                    dead_letter(worker, delivery, &failure).await?;
                    publish_failure(worker, delivery, subject, failure, timings).await?;
                }
                ErrorClass::Cancelled => {
                    tracing::debug!(%failure, "nobody wants the task any more")
                }
            }
        }
    }
    Ok(Settlement::Acknowledge)
}

/// Gives a message back that the model has not begun with.
pub(super) async fn hand_back<W: StageWork>(
    worker: &Worker<W>,
    delivery: &InFlightDelivery,
) -> Result<Settlement, QueueError> {
    if delivery.redelivered {
        // The broker goes on counting how often it came back.
        return Ok(Settlement::Requeue);
    }
    // As new: a message that a broker takes back counts as one whose worker may have died on it, and runs alone.
    tracing::debug!("handing the task back, since turns wait");
    let message = delivery.message.clone();
    worker.queue.publish(&delivery.source, message).await?;
    Ok(Settlement::Acknowledge)
}

async fn publish_failure<W: StageWork>(
    worker: &Worker<W>,
    delivery: &InFlightDelivery,
    subject: Option<Subject>,
    failure: Failure,
    timings: StageTimings,
) -> Result<(), QueueError> {
    match subject {
        Some(subject) => {
            publish_result(worker, delivery, subject, Outcome::Failed(failure), timings).await
        }
        None => Ok(()),
    }
}

async fn publish_result<W: StageWork>(
    worker: &Worker<W>,
    delivery: &InFlightDelivery,
    subject: Subject,
    outcome: Outcome,
    timings: StageTimings,
) -> Result<(), QueueError> {
    let result = StageResult {
        schema_version: SCHEMA_VERSION,
        run: subject.run,
        study: subject.study,
        stage: worker.work.stage(),
        task_output: subject.output,
        outcome,
        timings,
    };
    let body = serde_json::to_vec(&result).expect("a result is plain data with text keys");
    let message = Message {
        body: body.into(),
        traceparent: Some(delivery.trace.child().to_string()),
        ..Message::default()
    };
    worker.queue.publish(queues::RESULTS, message).await
}

/// Copies the message to its dead-letter queue, with the failure as the reason.
pub(super) async fn dead_letter<W: StageWork>(
    worker: &Worker<W>,
    delivery: &InFlightDelivery,
    failure: &Failure,
) -> Result<(), QueueError> {
    worker.metrics.dead_letter(failure.code);
    let death = Death {
        code: failure.code.as_str(),
        reason: failure.message.clone(),
        source: delivery.source.to_string(),
        worker: worker.name.clone(),
    };
    let message = Message {
        published: None,
        death: Some(death),
        ..delivery.message.clone()
    };
    worker
        .queue
        .publish(&queues::dead(&delivery.source), message)
        .await
}

/// Whether the failure is all there is to say: the study's own input is at fault, and no operator could repair it by
/// sending the task again.
fn is_final_for_the_study(code: ErrorCode) -> bool {
    !matches!(
        code,
        ErrorCode::MessageInvalid
            | ErrorCode::SchemaVersion
            | ErrorCode::ObjectMissing
            | ErrorCode::ObjectRefused
            | ErrorCode::ObjectCorrupt
    )
}
