//! What a stage is to the runner: how to fetch a task's inputs, and a model loop that turns inputs into outputs.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use radialog_schemas::{Failure, Task, TurnEvent};
use tokio::sync::mpsc::UnboundedSender;

use crate::conversations::ConversationSnapshot;
use crate::objects::Objects;

/// A stage's output for one task, ready to be stored under the task's output key.
#[derive(Clone, Debug, Default)]
pub struct StageOutput {
    /// The object's content; for a turn of a conversation its [`radialog_schemas::Answer`] in JSON, which is not stored.
    pub content: Bytes,
    /// Number of generated tokens, for the metrics; 0 for stages without any.
    pub tokens: u32,
    /// The model's time for this item; a batch's time is shared evenly.
    pub model_time: Duration,
    /// The number of items that shared the model's run.
    pub batch: u32,
}

/// One task or turn that waits for the model, with the way to answer it.
pub struct WorkItem<I> {
    /// What [`StageWork::fetch`] or [`ChatWork::prepare`] returned.
    pub input: I,
    /// It was redelivered after a crash, and runs in a batch of one, so that the others are not blamed.
    pub alone: bool,
    /// Somebody waits for it: it comes before all that are not urgent.
    pub urgent: bool,
    /// The channel of the answer; nobody listens any more after a shutdown.
    pub answer: tokio::sync::oneshot::Sender<Result<StageOutput, Failure>>,
}

/// The source of the model loop's items. It blocks, so it belongs to the model's own thread.
pub trait Feed<I> {
    /// Waits for work and returns at least one item, at most `limit`, without waiting for more than are ready; urgent
    /// ones first. An item that must run alone comes alone. Empty once the worker shuts down.
    fn wait(&mut self, limit: usize) -> Vec<WorkItem<I>>;

    /// Like [`Feed::wait`] without waiting, for a loop that has running sequences: at most `urgent` urgent items, and
    /// then, if none of those is left, at most `limit` others.
    fn ready(&mut self, limit: usize, urgent: usize) -> Vec<WorkItem<I>>;
}

/// One stage of the pipeline.
#[async_trait]
pub trait StageWork: Send + Sync + 'static {
    /// Fetched and decoded inputs of one task.
    type Input: Send + 'static;

    /// Says which stage this is.
    fn stage(&self) -> radialog_schemas::Stage;

    /// The hash of the bundle component that this worker holds; tasks for another one fail as `bundle_mismatch`.
    fn component(&self) -> &radialog_schemas::ContentHash;

    /// The largest number of items in the model at a time.
    fn batch_limit(&self) -> usize;

    /// Fetches and decodes the inputs of a task. Runs for several tasks at once beside the model.
    async fn fetch(&self, task: &Task, objects: &dyn Objects) -> Result<Self::Input, Failure>;

    /// Runs the model until the feed is closed; answers every item. Called on a thread of its own, and called again
    /// after a panic, with the items that were in the model retried one by one.
    fn run(&self, feed: &mut dyn Feed<Self::Input>);
}

/// A turn of a conversation that is to be answered.
pub struct OpenTurn<'a> {
    /// The conversation, this turn included.
    pub snapshot: &'a ConversationSnapshot,
    /// The turn's number, counted from 1.
    pub number: u32,
    /// Tokens that earlier workers have written of the answer: it goes on behind them.
    pub written: &'a [u32],
    /// Takes every further token as [`TurnEvent::Token`], as soon as the model has it. Nobody listens any more after a
    /// cancellation or a shutdown.
    pub events: UnboundedSender<TurnEvent>,
}

/// A turn that is ready for the model.
pub struct PreparedTurn<I> {
    /// What the model takes; it holds [`OpenTurn::events`].
    pub input: I,
    /// The question as the model reads it.
    pub asked: String,
}

/// A stage that answers turns of conversations beside its tasks, with the same model. Its turns reach
/// [`StageWork::run`] as urgent items.
#[async_trait]
pub trait ChatWork: Send + Sync + 'static {
    /// The same type as [`StageWork::Input`].
    type Input: Send + 'static;

    /// The largest number of turns in the model at a time.
    fn turn_limit(&self) -> usize;

    /// Fetches what a turn needs and assembles its prompt. Runs for several turns at once beside the model.
    async fn prepare(
        &self,
        turn: OpenTurn<'_>,
        objects: &dyn Objects,
    ) -> Result<PreparedTurn<Self::Input>, Failure>;
}
