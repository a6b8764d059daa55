//! Carries out the pipeline's commands. Dispatcher and result consumer both do, so that a study goes on whoever notices
//! that it can.

use std::sync::Arc;

use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use radialog_runtime::backends::Backends;
use radialog_runtime::state::Fact;
use radialog_schemas::{ConversationId, RunSpec, Task};
use tracing::warn;

use super::image_preparation::finish_preparation;
use super::pipeline::{StudyCommand, StudyFacts};
use super::publish::publish_task;
use super::retry::RetryUntilShutdown;
use super::run_state::finished_fact;
use super::study_record;
use crate::conversation::retention;
use crate::{BackendError, CoordinatorError};

/// Records being assembled at a time.
const ASSEMBLING: usize = 64;

/// One study, and the commands that follow for it.
pub(crate) struct StudyStep {
    pub(crate) run: Arc<RunSpec>,
    pub(crate) facts: StudyFacts,
    pub(crate) commands: Vec<StudyCommand>,
}

/// Carries out commands over the backends, and waits for a backend that does not answer.
#[derive(Clone)]
pub(crate) struct Executor {
    pub(crate) backends: Backends,
    pub(crate) retry: RetryUntilShutdown,
}

impl Executor {
    /// Publishes all tasks side by side, then finishes studies in one round trip.
    ///
    /// # Errors
    /// Only [`CoordinatorError::Stopped`]; then some commands are not carried out, and follow again from the facts.
    pub(crate) async fn execute(&self, steps: &[StudyStep]) -> Result<(), CoordinatorError> {
        let mut tasks = Vec::new();
        let mut lines = Vec::new();
        let mut prepared = Vec::new();
        for step in steps {
            for command in &step.commands {
                match command {
                    StudyCommand::Publish(task) => tasks.push(self.publish(task)),
                    StudyCommand::Finish => match &step.run.conversation {
                        Some(conversation) => prepared.push(self.finish_image(conversation, step)),
                        None => lines.push(self.finished_line(step)),
                    },
                }
            }
        }
        try_join_all(tasks).await?;
        try_join_all(prepared).await?;
        let lines: Vec<Fact> = stream::iter(lines)
            .buffered(ASSEMBLING)
            .try_collect()
            .await?;
        if !lines.is_empty() {
            self.retry
                .until_success(|| self.backends.state.finish(&lines))
                .await?;
        }
        Ok(())
    }

    async fn publish(&self, task: &Task) -> Result<(), CoordinatorError> {
        self.retry
            .until_success(|| publish_task(&*self.backends.queue, task))
            .await
    }

    async fn finish_image(
        &self,
        conversation: &ConversationId,
        step: &StudyStep,
    ) -> Result<(), CoordinatorError> {
        let StudyStep { run, facts, .. } = step;
        let finish = || finish_preparation(&self.backends, conversation, run, facts);
        self.unless_unreadable(conversation, finish).await
    }

    /// Removes what a conversation that is gone has in the store; what belongs to who lives under its name stays.
    pub(crate) async fn remove_unowned(
        &self,
        conversation: &ConversationId,
    ) -> Result<(), CoordinatorError> {
        let remove = || async {
            let removed = retention::remove_objects(&self.backends, conversation).await;
            removed.map(drop)
        };
        self.unless_unreadable(conversation, remove).await
    }

    /// Repeats what is done for a conversation until it is done, but for one that cannot be read.
    async fn unless_unreadable<F>(
        &self,
        conversation: &ConversationId,
        attempt: impl Fn() -> F,
    ) -> Result<(), CoordinatorError>
    where
        F: Future<Output = Result<(), BackendError>>,
    {
        let settled = || async {
            match attempt().await {
                // It stays so; the others go on.
                Err(BackendError::Unreadable(error)) => {
                    warn!(%conversation, %error, "a conversation cannot be read: what it has stays");
                    Ok(())
                }
                settled => settled,
            }
        };
        self.retry.until_success(settled).await
    }

    async fn finished_line(&self, step: &StudyStep) -> Result<Fact, CoordinatorError> {
        let objects = &*self.backends.objects;
        let record = self
            .retry
            .until_success(|| study_record::finished(&step.run, &step.facts, objects))
            .await?;
        let line = study_record::line(&record);
        Ok(finished_fact(&step.run.run, &record.study, line))
    }
}
