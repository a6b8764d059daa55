//! Carries out the pipeline's commands. Dispatcher and results handler both do, so that a study goes on whoever
//! notices that it can.

use std::sync::Arc;

use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use radialog_runtime::backends::Backends;
use radialog_runtime::queue::{Message, Queue, QueueError};
use radialog_runtime::state::Fact;
use radialog_schemas::{ConversationId, RunSpec, Task, queues};

use crate::patience::Patience;
use crate::pipeline::{Command, StudyFacts};
use crate::{CoordinatorError, conversation, record};

/// Records being assembled at a time.
const ASSEMBLING: usize = 64;

/// One study and what to do for it.
pub(crate) struct Step {
    pub(crate) run: Arc<RunSpec>,
    pub(crate) facts: StudyFacts,
    pub(crate) commands: Vec<Command>,
}

/// Backends and the patience to wait for them.
#[derive(Clone)]
pub(crate) struct Conductor {
    pub(crate) backends: Backends,
    pub(crate) patience: Patience,
}

impl Conductor {
    /// Publishes all tasks side by side, then finishes studies in one round trip.
    ///
    /// # Errors
    /// Only [`CoordinatorError::Stopped`]; then some commands are not carried out, and follow again from the facts.
    pub(crate) async fn carry_out(&self, steps: &[Step]) -> Result<(), CoordinatorError> {
        let mut tasks = Vec::new();
        let mut lines = Vec::new();
        let mut concluded = Vec::new();
        for step in steps {
            for command in &step.commands {
                match command {
                    Command::Publish(task) => tasks.push(self.publish(task)),
                    Command::Finish => match &step.run.conversation {
                        Some(conversation) => concluded.push(self.conclude(conversation, step)),
                        None => lines.push(self.line(step)),
                    },
                }
            }
        }
        try_join_all(tasks).await?;
        try_join_all(concluded).await?;
        let lines: Vec<Fact> = stream::iter(lines)
            .buffered(ASSEMBLING)
            .try_collect()
            .await?;
        if !lines.is_empty() {
            self.patience
                .until_done(|| self.backends.state.finish(&lines))
                .await?;
        }
        Ok(())
    }

    async fn publish(&self, task: &Task) -> Result<(), CoordinatorError> {
        self.patience
            .until_done(|| publish(&*self.backends.queue, task))
            .await
    }

    async fn conclude(
        &self,
        conversation: &ConversationId,
        step: &Step,
    ) -> Result<(), CoordinatorError> {
        let Step { run, facts, .. } = step;
        self.patience
            .until_done(|| conversation::conclude(&self.backends, conversation, run, facts))
            .await
    }

    async fn line(&self, step: &Step) -> Result<Fact, CoordinatorError> {
        let objects = &*self.backends.objects;
        let record = self
            .patience
            .until_done(|| record::finished(&step.run, &step.facts, objects))
            .await?;
        Ok(Fact {
            run: step.run.run.clone(),
            study: record.study.clone(),
            field: String::new(),
            value: record::line(&record),
        })
    }
}

/// Gives a task to its stage.
///
/// # Errors
/// When the broker does not confirm.
pub(crate) async fn publish(queue: &dyn Queue, task: &Task) -> Result<(), QueueError> {
    let body = serde_json::to_vec(task).expect("a task has string keys only");
    queue
        .publish(
            queues::work(task.work.stage()),
            Message {
                body: body.into(),
                ..Message::default()
            },
        )
        .await
}
