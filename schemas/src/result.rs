//! What a worker says about a task.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Failure, ObjectKey, RunId, Stage, StudyId};

/// One message on the results queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageResult {
    /// [`crate::SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The run of the task.
    pub run: RunId,
    /// The study of the task.
    pub study: StudyId,
    /// The stage that ran.
    pub stage: Stage,
    /// The key that its task gives to the output ([`crate::Task::output`]), done or failed: by now the study may have another
    /// image than the task. None where the writer's release told none, or the message could not be read as a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_output: Option<ObjectKey>,
    /// What came of it.
    pub outcome: Outcome,
    /// The times that the task took.
    pub timings: StageTimings,
}

impl StageResult {
    /// The key that its task gives to the output; none where nothing says it.
    pub fn output_of_task(&self) -> Option<&ObjectKey> {
        self.task_output.as_ref().or(match &self.outcome {
            Outcome::Done { output } => Some(output),
            Outcome::Failed(_) => None,
        })
    }
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The output is in the store.
    Done {
        /// Its key.
        output: ObjectKey,
    },
    /// It cannot be done.
    Failed(Failure),
}

/// The times that one task took. Everything that may differ between two runs over the same input is here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageTimings {
    /// The time that it waited in the queue, in milliseconds.
    pub queue_ms: f64,
    /// The time that its inputs took to fetch and decode, in milliseconds.
    pub fetch_ms: f64,
    /// The time in the model, in milliseconds; a batch's time is shared evenly.
    pub model_ms: f64,
    /// The time that the output took to store, in milliseconds.
    pub store_ms: f64,
    /// The number of tasks that shared the model's run.
    pub batch: u32,
    /// The number of attempts that failed before.
    pub attempt: u32,
    /// True when the output was already in the store.
    pub reused: bool,
    /// The worker that did it.
    pub worker: String,
}
