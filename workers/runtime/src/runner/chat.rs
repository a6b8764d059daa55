//! One turn of a conversation, from its message to its last event. Whatever must not be lost is in the conversation
//! before the message is acknowledged: the turn's end, and then the message of the turn after it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use radialog_schemas::queues::{self, RETRY_DELAYS};
use radialog_schemas::{
    ChatTask, ConversationId, ErrorClass, ErrorCode, Failure, TurnEvent, TurnOutcome, TurnRequest,
};
use tracing::Instrument;

use super::RunError;
use super::held::Held;
use super::message;
use super::patience::{GivenUp, Patience};
use super::single::SingleFlight;
use super::task::{InFlight, Setback, Worker};
use crate::conversations::{Conversations, TurnClaim};
use crate::metrics::ChatMetrics;
use crate::queue::{Delivery, Message, QueueError};
use crate::stage::{ChatWork, StageWork};
use crate::state::StateError;
use answer::Page;

mod answer;

/// What all turns of a worker share.
pub(super) struct Chat<I> {
    work: Arc<dyn ChatWork<Input = I>>,
    conversations: Arc<dyn Conversations>,
    patience: Patience,
    /// The turns that this worker answers. A broken connection brings a turn again while it is being answered.
    turns: SingleFlight<(ConversationId, u32)>,
    metrics: ChatMetrics,
}

/// How many turns to hold: those in the model and one that waits, so that the model knows of it.
pub(super) fn prefetch(turn_limit: usize) -> u16 {
    u16::try_from(turn_limit.saturating_add(1)).unwrap_or(u16::MAX)
}

impl<I> Chat<I> {
    pub(super) fn new(
        work: Arc<dyn ChatWork<Input = I>>,
        conversations: Arc<dyn Conversations>,
        patience: Patience,
        metrics: ChatMetrics,
    ) -> Self {
        Self {
            work,
            conversations,
            patience,
            turns: SingleFlight::default(),
            metrics,
        }
    }

    /// Repeats a call while the conversations do not answer.
    async fn until_answered<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Setback>
    where
        F: Future<Output = Result<T, StateError>>,
    {
        let outcome = self.patience.wait(|| {
            let call = call();
            async move {
                call.await
                    .map_err(|error| Failure::new(ErrorCode::ObjectStore, error))
            }
        });
        outcome.await.map_err(|given_up| match given_up {
            GivenUp::Failure(failure) => Setback::Failure(failure),
            GivenUp::StoreAway => Setback::HandBack("the conversations are away"),
        })
    }
}

impl<W: StageWork> Worker<W> {
    /// Answers the delivered turn, if it is one, and settles the delivery.
    pub(super) async fn handle_turn(
        self: Arc<Self>,
        chat: Arc<Chat<W::Input>>,
        delivery: Delivery,
    ) -> Result<(), RunError> {
        let _in_flight = InFlight::enter(&chat.metrics.in_flight);
        let mut held = Held::new(delivery, queues::CHAT);
        let parsed = message::parse_turn(&held.message.body);
        let (conversation, turn) = parsed
            .as_ref()
            .ok()
            .map(|task| (&task.conversation, task.turn))
            .unzip();
        let span = tracing::info_span!(
            "turn",
            conversation = conversation.map(tracing::field::display),
            turn,
            attempt = held.message.attempt,
            trace = format_args!("{:032x}", held.trace.trace),
        );
        async {
            let published = match &parsed {
                Ok(task) => self.settle_turn(&chat, task, &mut held).await,
                Err(failure) => {
                    tracing::error!(%failure, "the message is no turn and is dead-lettered");
                    self.publish_dead_letter(&held, failure)
                        .await
                        .map(|()| true)
                }
            };
            self.conclude(held, published).await;
            Ok(())
        }
        .instrument(span)
        .await
    }

    /// Answers a turn and publishes what follows. True where the delivery is done with.
    async fn settle_turn(
        &self,
        chat: &Chat<W::Input>,
        task: &ChatTask,
        held: &mut Held,
    ) -> Result<bool, QueueError> {
        match self.turn(chat, task, held).await {
            Ok(None) => Ok(true),
            Ok(Some(next)) => {
                let body =
                    serde_json::to_vec(&ChatTask::new(&task.conversation, next, &task.component));
                let body = body.expect("a turn has string keys only").into();
                let traceparent = Some(held.trace.child().to_string());
                self.queue
                    .publish(
                        queues::CHAT,
                        Message {
                            body,
                            traceparent,
                            ..Message::default()
                        },
                    )
                    .await?;
                Ok(true)
            }
            Err(Setback::Failure(failure)) if held.is_insured() => {
                tracing::warn!(%failure, "the suspect failed; its next attempt is queued already");
                Ok(true)
            }
            Err(Setback::Failure(failure)) => {
                self.metrics.failure(failure.code);
                let retry = (held.message.attempt as usize).min(RETRY_DELAYS.len() - 1);
                tracing::warn!(%failure, delay_s = RETRY_DELAYS[retry].as_secs(), "the turn failed; trying again");
                self.queue
                    .publish(&queues::retry(queues::CHAT, retry), held.again())
                    .await?;
                Ok(true)
            }
            Err(Setback::HandBack(reason)) => {
                tracing::debug!(reason, "handing the turn back");
                Ok(false)
            }
            Err(Setback::StoreFull(error)) => {
                tracing::debug!(%error, "handing the turn back");
                Ok(false)
            }
        }
    }

    /// Sees to it that the turn is over; returns the turn that is ready then. A failure is one to try again.
    async fn turn(
        &self,
        chat: &Chat<W::Input>,
        task: &ChatTask,
        held: &mut Held,
    ) -> Result<Option<u32>, Setback> {
        let (id, turn) = (&task.conversation, task.turn);
        // Before the turn is taken, so that it stays queued for a worker that has its component.
        self.check_component(&task.component)
            .or_else(|failure| unless_retried(failure, held))?;
        let key = (id.clone(), turn);
        let _flight = self.unless_stopping(chat.turns.enter(&key)).await?;
        let start = chat.until_answered(|| chat.conversations.claim_turn(id, turn));
        let (epoch, snapshot, events) = match self.unless_stopping(start).await?? {
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
        let begun = events
            .iter()
            .any(|event| matches!(event, TurnEvent::Started { .. }));
        let page = Page {
            conversation: id,
            turn,
            epoch,
            snapshot: &snapshot,
            events: &events,
        };
        let due = self
            .check_component(&task.component)
            .and_then(|()| if begun { Ok(()) } else { in_time(request) });
        let written = match due {
            Ok(()) => self.write(chat, &page, held).await,
            Err(failure) => Err(Setback::Failure(failure)),
        };
        let outcome = match written {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return Ok(None),
            Err(Setback::Failure(failure)) => {
                unless_retried(failure.clone(), held)?;
                self.metrics.failure(failure.code);
                tracing::warn!(%failure, "the turn has no answer");
                TurnOutcome::Failed(failure)
            }
            Err(setback) => return Err(setback),
        };
        let next = chat
            .until_answered(|| chat.conversations.finish(id, turn, epoch, &outcome))
            .await?;
        chat.metrics.ended(&outcome);
        Ok(next)
    }
}

/// Ok where this failure is the turn's last word. A crash is: the turn ran alone then, and a person waits.
fn unless_retried(failure: Failure, held: &Held) -> Result<(), Setback> {
    let may_pass = failure.class() == ErrorClass::Transient && failure.code != ErrorCode::Crash;
    let again = held.is_insured() || (held.message.attempt as usize) < RETRY_DELAYS.len();
    if may_pass && again {
        Err(Setback::Failure(failure))
    } else {
        Ok(())
    }
}

fn in_time(request: &TurnRequest) -> Result<(), Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    if request
        .deadline_ms
        .is_none_or(|deadline| now < u128::from(deadline))
    {
        return Ok(());
    }
    let message =
        "no worker was free before the turn's deadline; ask again, or start more language workers";
    Err(Failure::new(ErrorCode::DeadlineExceeded, message))
}
