//! One turn of a conversation, from its message to its last event. Whatever must not be lost is in the conversation
//! before the message is acknowledged: the turn's end, and then the message of the turn after it.

use std::sync::Arc;

use radialog_schemas::queues;
use radialog_schemas::{
    ChatTask, ErrorClass, ErrorCode, Failure, SCHEMA_VERSION, TurnEvent, TurnOutcome, TurnRequest,
};
use tracing::Instrument;

use super::delivery::{GaugeGuard, InFlightDelivery};
use super::error::{RunError, TaskError};
use super::message;
use super::settle::{self, Settlement};
use super::worker::Worker;
use crate::clock;
use crate::conversations::TurnClaim;
use crate::queue::{Delivery, Message, QueueError};
use crate::stage::StageWork;
use answer::{AnswerEnd, ClaimedTurn};
pub(super) use worker::ChatWorker;

mod answer;
mod worker;

/// Whether this is a turn that nobody waits for, among the stage's tasks. The tasks are read as turns for
/// this, which they are not: they name no conversation.
pub(super) fn is_of_batch(delivery: &Delivery) -> bool {
    message::parse_turn(&delivery.message.body).is_ok_and(|task| task.of_batch)
}

/// Answers the delivered turn of the queue `source`, if it is one, and settles the delivery.
pub(super) async fn handle<W: StageWork>(
    worker: Arc<Worker<W>>,
    chat: Arc<ChatWorker<W::Input>>,
    delivery: Delivery,
    source: Arc<str>,
) -> Result<(), RunError> {
    let _counted = GaugeGuard::enter(match source == worker.source {
        true => &worker.metrics.in_flight,
        false => &chat.metrics.in_flight,
    });
    let mut delivery = InFlightDelivery::new(delivery, &source);
    let parsed = message::parse_turn(&delivery.message.body);
    let (conversation, turn) = parsed
        .as_ref()
        .ok()
        .map(|task| (&task.conversation, task.turn))
        .unzip();
    let span = tracing::info_span!(
        "turn",
        conversation = conversation.map(tracing::field::display),
        turn,
        attempt = delivery.message.attempt,
        trace = format_args!("{:032x}", delivery.trace.trace),
    );
    async {
        let published = match &parsed {
            Ok(task) => answer_and_publish(&worker, &chat, task, &mut delivery).await,
            Err(failure) if has_attempts(failure, &delivery) => {
                try_again(&worker, &delivery, failure).await
            }
            Err(failure) => {
                tracing::error!(%failure, "the message is no turn and is dead-lettered");
                settle::dead_letter(&worker, &delivery, failure)
                    .await
                    .map(|()| Settlement::Acknowledge)
            }
        };
        settle::settle(&worker, delivery, published).await;
        Ok(())
    }
    .instrument(span)
    .await
}

/// Answers a turn and publishes what follows: the turn that is ready then, or this turn's next attempt.
async fn answer_and_publish<W: StageWork>(
    worker: &Worker<W>,
    chat: &ChatWorker<W::Input>,
    task: &ChatTask,
    delivery: &mut InFlightDelivery,
) -> Result<Settlement, QueueError> {
    match answer_turn(worker, chat, task, delivery).await {
        Ok(None) => {}
        Ok(Some(next)) => {
            let task = ChatTask {
                turn: next,
                schema_version: SCHEMA_VERSION,
                ..task.clone()
            };
            let body = serde_json::to_vec(&task).expect("a turn has string keys only");
            let message = Message {
                body: body.into(),
                traceparent: Some(delivery.trace.child().to_string()),
                ..Message::default()
            };
            worker.queue.publish(&delivery.source, message).await?;
        }
        Err(TaskError::Failed(failure)) if delivery.is_retry_queued() => {
            tracing::warn!(%failure, "the suspected poison message failed; its next attempt is queued already");
        }
        Err(TaskError::Failed(failure)) => return try_again(worker, delivery, &failure).await,
        Err(TaskError::Requeue(reason)) => {
            tracing::debug!(reason, "requeueing the turn");
            return Ok(Settlement::Requeue);
        }
        // Only one that nobody waits for is handed back, as tasks are, for the sake of the others.
        Err(TaskError::HandBack) => return settle::hand_back(worker, delivery).await,
        Err(TaskError::StoreFull(error)) => {
            tracing::debug!(%error, "requeueing the turn");
            return Ok(Settlement::Requeue);
        }
    }
    Ok(Settlement::Acknowledge)
}

/// Publishes the next attempt, to come after a pause.
async fn try_again<W: StageWork>(
    worker: &Worker<W>,
    delivery: &InFlightDelivery,
    failure: &Failure,
) -> Result<Settlement, QueueError> {
    worker.metrics.failure(failure.code);
    let retry = delivery.message.tries(failure.code);
    tracing::warn!(%failure, delay_s = queues::retry_delay(retry).as_secs(), "the turn failed; trying again");
    let queue = queues::retry(&delivery.source, retry);
    worker
        .queue
        .publish(&queue, delivery.next_try(failure.code))
        .await?;
    Ok(Settlement::Acknowledge)
}

/// Sees to it that the turn is over, and returns the turn that is ready then. A failure is one to try again.
async fn answer_turn<W: StageWork>(
    worker: &Worker<W>,
    chat: &ChatWorker<W::Input>,
    task: &ChatTask,
    delivery: &mut InFlightDelivery,
) -> Result<Option<u32>, TaskError> {
    let (id, turn) = (&task.conversation, task.turn);
    // Before the turn is claimed, so that it stays queued for a worker that has its component.
    worker
        .check_component(&task.component)
        .or_else(|failure| unless_retried(failure, delivery))?;
    let key = (id.clone(), turn);
    let _flight = worker.unless_stopping(chat.turns.enter(&key)).await?;
    let claim = chat.until_answered(|| chat.conversations.claim_turn(id, turn));
    let claim = worker.unless_stopping(claim).await.flatten()?;
    let (epoch, snapshot, events) = match claim {
        TurnClaim::Granted {
            epoch,
            snapshot,
            events,
        } => (epoch, snapshot, events),
        TurnClaim::NotRunnable { next } => return Ok(next),
        TurnClaim::NotFound => return Ok(None),
    };
    let index = (turn as usize).wrapping_sub(1);
    let Some(request) = snapshot.turns.get(index).map(|turn| &turn.request) else {
        return Ok(None);
    };
    let has_started = events
        .iter()
        .any(|event| matches!(event, TurnEvent::Started { .. }));
    let claimed = ClaimedTurn {
        conversation: id,
        turn,
        epoch,
        snapshot: &snapshot,
        events: &events,
        is_of_batch: task.of_batch,
    };
    let checked = worker
        .check_component(&task.component)
        .and_then(|()| match has_started {
            true => Ok(()),
            false => check_deadline(request),
        });
    let end = match checked {
        Ok(()) => answer::write(worker, chat, &claimed, delivery).await,
        Err(failure) => Err(TaskError::Failed(failure)),
    };
    let outcome = match end {
        Ok(AnswerEnd::Ended(outcome)) => outcome,
        Ok(AnswerEnd::Fenced) => return Ok(None),
        Err(TaskError::Failed(failure)) => {
            unless_retried(failure.clone(), delivery)?;
            worker.metrics.failure(failure.code);
            tracing::warn!(%failure, "the turn has no answer");
            TurnOutcome::Failed(failure)
        }
        Err(other) => return Err(other),
    };
    let next = chat
        .until_answered(|| chat.conversations.finish(id, turn, epoch, &outcome))
        .await?;
    chat.metrics.ended(&outcome);
    Ok(next)
}

/// Ok where this failure is the turn's last word. A crash is: the turn ran alone then, and a person waits.
fn unless_retried(failure: Failure, delivery: &InFlightDelivery) -> Result<(), TaskError> {
    if has_attempts(&failure, delivery) {
        Err(TaskError::Failed(failure))
    } else {
        Ok(())
    }
}

/// Whether a further attempt may come to something else, and there is one.
fn has_attempts(failure: &Failure, delivery: &InFlightDelivery) -> bool {
    let may_pass = failure.class() == ErrorClass::Transient && failure.code != ErrorCode::Crash;
    may_pass
        && (delivery.is_retry_queued()
            || delivery.message.tries(failure.code) < failure.code.retries())
}

fn check_deadline(request: &TurnRequest) -> Result<(), Failure> {
    if request
        .deadline_ms
        .is_none_or(|deadline| clock::now_ms() < deadline)
    {
        return Ok(());
    }
    let message =
        "no worker was free before the turn's deadline; ask again, or start more language workers";
    Err(Failure::new(ErrorCode::DeadlineExceeded, message))
}
