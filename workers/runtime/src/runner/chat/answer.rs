//! An answer while it is being written: from the model, token by token, into the conversation.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use radialog_schemas::{Answer, ConversationId, ErrorCode, Failure, TurnEvent, TurnOutcome};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::worker::ChatWorker;
use crate::conversations::{AppendOutcome, ConversationSnapshot};
use crate::runner::delivery::InFlightDelivery;
use crate::runner::error::TaskError;
use crate::runner::model::{PendingReply, Reply};
use crate::runner::poison;
use crate::runner::worker::Worker;
use crate::stage::{OpenTurn, PreparedTurn, StageWork};

/// The largest number of events in one call; more than a decode step makes.
const MAX_EVENTS: usize = 64;
/// The time after which a turn without a token looks again whether anybody still wants it.
const CHECK_WANTED_EVERY: Duration = Duration::from_millis(500);

/// A turn that this worker may write.
pub(super) struct ClaimedTurn<'a> {
    pub(super) conversation: &'a ConversationId,
    /// Its number, from 1.
    pub(super) turn: u32,
    /// The fencing token: writes with an older one are refused.
    pub(super) epoch: u64,
    pub(super) snapshot: &'a ConversationSnapshot,
    /// What earlier workers wrote.
    pub(super) events: &'a [TurnEvent],
    /// Nobody waits for it: it goes with the tasks, and is handed back with them while turns wait.
    pub(super) is_of_batch: bool,
}

/// The end of an answer's writing.
pub(super) enum AnswerEnd {
    /// The turn ends so.
    Ended(TurnOutcome),
    /// Another worker has the turn now, or it is gone.
    Fenced,
}

/// What is written of the answer so far.
struct Written {
    /// Number of the turn's last event.
    last_event: u64,
    /// Every token of the answer, those of earlier workers included.
    tokens: Vec<u32>,
}

/// The reason why the answer is not written on.
enum WriteError {
    /// Another worker has the turn, or it is gone.
    Fenced,
    /// Nobody wants it.
    Cancelled,
    Task(TaskError),
}

impl From<TaskError> for WriteError {
    fn from(error: TaskError) -> Self {
        WriteError::Task(error)
    }
}

/// Has the model answer the turn, and writes its tokens into the conversation as they come.
pub(super) async fn write<W: StageWork>(
    worker: &Worker<W>,
    chat: &ChatWorker<W::Input>,
    turn: &ClaimedTurn<'_>,
    delivery: &mut InFlightDelivery,
) -> Result<AnswerEnd, TaskError> {
    match write_whole(worker, chat, turn, delivery).await {
        Ok(answer) => Ok(AnswerEnd::Ended(TurnOutcome::Done(answer))),
        Err(WriteError::Cancelled) => Ok(AnswerEnd::Ended(TurnOutcome::Cancelled)),
        Err(WriteError::Fenced) => Ok(AnswerEnd::Fenced),
        Err(WriteError::Task(error)) => Err(error),
    }
}

async fn write_whole<W: StageWork>(
    worker: &Worker<W>,
    chat: &ChatWorker<W::Input>,
    turn: &ClaimedTurn<'_>,
    delivery: &mut InFlightDelivery,
) -> Result<Answer, WriteError> {
    let isolated = poison::isolate(worker, delivery).await?;
    let mut written = Written {
        last_event: turn.events.len() as u64,
        tokens: turn.events.iter().filter_map(token_of).collect(),
    };
    // Coming back once is no suspicion here: the reader waits, and a second crash gives the turn away.
    let mut alone = isolated.is_some();
    let mut started = false;
    loop {
        let (sender, mut events) = unbounded_channel();
        let prepare = || prepare(worker, chat, turn, &written.tokens, sender.clone());
        let PreparedTurn { input, asked } = worker.retry_unless_stopping(prepare).await?;
        drop(sender);
        if !started {
            turn.append(chat, &mut written, vec![TurnEvent::Started { asked }])
                .await?;
            started = true;
        }
        let reply = worker.model.ask(input, alone, !turn.is_of_batch);
        match turn
            .follow(worker, chat, &mut written, &mut events, reply, delivery)
            .await?
        {
            Reply::Answer(answer) => {
                let output = answer.map_err(TaskError::Failed)?;
                worker.count_model_run(&output);
                if turn.is_of_batch {
                    worker.service_time.record(output.model_time);
                }
                return serde_json::from_slice(&output.content).map_err(|error| {
                    let message =
                        format!("the model's answer is none: {error}; please report this");
                    TaskError::Failed(Failure::new(ErrorCode::Model, message)).into()
                });
            }
            Reply::Silence => worker.may_retry_alone(alone)?,
        }
        alone = true;
    }
}

async fn prepare<W: StageWork>(
    worker: &Worker<W>,
    chat: &ChatWorker<W::Input>,
    turn: &ClaimedTurn<'_>,
    written: &[u32],
    events: UnboundedSender<TurnEvent>,
) -> Result<PreparedTurn<W::Input>, Failure> {
    let open = OpenTurn {
        snapshot: turn.snapshot,
        number: turn.turn,
        written,
        events,
    };
    let prepare = AssertUnwindSafe(chat.work.prepare(open, worker.objects.as_ref())).catch_unwind();
    prepare.await.unwrap_or_else(|_| {
        Err(Failure::new(
            ErrorCode::Crash,
            "preparing the turn panicked; see the worker's log",
        ))
    })
}

impl ClaimedTurn<'_> {
    /// Writes what the model says until it replies.
    async fn follow<W: StageWork>(
        &self,
        worker: &Worker<W>,
        chat: &ChatWorker<W::Input>,
        written: &mut Written,
        model_events: &mut UnboundedReceiver<TurnEvent>,
        mut reply: PendingReply,
        delivery: &InFlightDelivery,
    ) -> Result<Reply, WriteError> {
        let mut check_wanted = tokio::time::interval(CHECK_WANTED_EVERY);
        let mut is_first = written.tokens.is_empty();
        let mut goes_on = true;
        // One whose next attempt is queued has nothing to hand back.
        let mut may_go_back = self.is_of_batch && !delivery.is_retry_queued();
        loop {
            let mut events = Vec::new();
            let replied = tokio::select! {
                biased;
                count = model_events.recv_many(&mut events, MAX_EVENTS), if goes_on => {
                    goes_on = count > 0;
                    None
                }
                replied = &mut reply => {
                    while let Ok(event) = model_events.try_recv() {
                        events.push(event);
                    }
                    Some(replied)
                }
                () = worker.batch_paused(), if may_go_back => {
                    if reply.withdraw() {
                        return Err(TaskError::HandBack.into());
                    }
                    // The model has it.
                    may_go_back = false;
                    None
                }
                _ = check_wanted.tick(), if goes_on => {
                    self.append(chat, written, Vec::new()).await?;
                    None
                }
            };
            if !events.is_empty() {
                self.append(chat, written, events).await?;
                if std::mem::take(&mut is_first) && !self.is_of_batch {
                    chat.metrics
                        .first_token
                        .observe(delivery.waited().as_secs_f64());
                }
                check_wanted.reset();
            }
            if let Some(replied) = replied {
                return Ok(replied);
            }
        }
    }

    /// Adds events to the turn. No events only ask whether anybody still wants them.
    async fn append<I>(
        &self,
        chat: &ChatWorker<I>,
        written: &mut Written,
        events: Vec<TurnEvent>,
    ) -> Result<(), WriteError> {
        let after = written.last_event;
        let append = || {
            chat.conversations
                .append(self.conversation, self.turn, self.epoch, after, &events)
        };
        match chat.until_answered(append).await? {
            AppendOutcome::Fenced => return Err(WriteError::Fenced),
            AppendOutcome::Cancelled => return Err(WriteError::Cancelled),
            AppendOutcome::Done => {}
        }
        written.last_event += events.len() as u64;
        written.tokens.extend(events.iter().filter_map(token_of));
        Ok(())
    }
}

fn token_of(event: &TurnEvent) -> Option<u32> {
    match event {
        TurnEvent::Token { id, .. } => Some(*id),
        _ => None,
    }
}
