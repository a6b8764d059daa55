//! What a stage is to the runner: how to fetch a task's inputs, and a model loop that turns inputs into outputs.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use radialog_schemas::{Failure, Task};

use crate::objects::Objects;

/// A finished piece of work, ready to be stored under the task's output key.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// The object's content.
    pub content: Bytes,
    /// Generated tokens, for the metrics; 0 for stages without any.
    pub tokens: u32,
    /// The model's time for this item; a batch's time is shared evenly.
    pub model_time: Duration,
    /// How many items shared the model's run.
    pub batch: u32,
}

/// One item that waits for the model, with the way to answer it.
pub struct Item<I> {
    /// The task, e.g. for its decoding options.
    pub task: Task,
    /// What [`StageWork::fetch`] returned.
    pub input: I,
    /// Redelivered after a crash: runs in a batch of one, so that the others are not blamed.
    pub alone: bool,
    /// Where the answer goes; nobody listens any more after a shutdown.
    pub answer: tokio::sync::oneshot::Sender<Result<Output, Failure>>,
}

/// Where the model loop takes its items from. It blocks, so it belongs to the model's own thread.
pub trait Feed<I> {
    /// Waits for work and returns at least one item, at most `limit`, without waiting for more than are ready. An item
    /// that must run alone comes alone. Empty once the worker shuts down.
    fn wait(&mut self, limit: usize) -> Vec<Item<I>>;

    /// Like [`Feed::wait`] without waiting; for a loop that has running sequences and can admit `limit` more.
    fn ready(&mut self, limit: usize) -> Vec<Item<I>>;
}

/// One stage of the pipeline.
#[async_trait]
pub trait StageWork: Send + Sync + 'static {
    /// Fetched and decoded inputs of one task.
    type Input: Send + 'static;

    /// The stage that this is.
    fn stage(&self) -> radialog_schemas::Stage;

    /// The bundle component that this worker holds; tasks for another one fail as `bundle_mismatch`.
    fn component(&self) -> &radialog_schemas::ContentHash;

    /// Most items in the model at a time.
    fn batch_limit(&self) -> usize;

    /// Fetches and decodes the inputs of a task. Runs for several tasks at once beside the model.
    async fn fetch(&self, task: &Task, objects: &dyn Objects) -> Result<Self::Input, Failure>;

    /// Runs the model until the feed is closed; answers every item. Called on a thread of its own, and called again
    /// after a panic, with the items that were in the model retried one by one.
    fn run(&self, feed: &mut dyn Feed<Self::Input>);
}
