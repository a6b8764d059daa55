//! What all deliveries of one worker share, tasks and turns of conversations alike, and the steps that both take.

use std::sync::Arc;

use radialog_schemas::{ContentHash, ErrorCode, Failure, ObjectKey, Stage};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::TaskError;
use super::model::Model;
use super::service_time::ServiceTime;
use super::single_flight::SingleFlight;
use super::store_retry::StoreRetry;
use crate::metrics::StageMetrics;
use crate::objects::Objects;
use crate::queue::Queue;
use crate::stage::{StageOutput, StageWork};

/// A worker of one stage, as its deliveries see it.
pub(super) struct Worker<W: StageWork> {
    pub(super) work: Arc<W>,
    pub(super) model: Model<W::Input>,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) objects: Arc<dyn Objects>,
    pub(super) metrics: Arc<StageMetrics>,
    pub(super) service_time: ServiceTime,
    /// For reads, and for writes apart: a store that is full answers reads, which says nothing of writes.
    pub(super) reading: StoreRetry,
    pub(super) writing: StoreRetry,
    /// The outputs that are being computed.
    pub(super) outputs: SingleFlight<ObjectKey>,
    /// Held while a suspected poison message is in the model.
    pub(super) poison_lock: tokio::sync::Mutex<()>,
    /// Whether batch work is paused, so that tasks that the model has not begun with are handed back.
    pub(super) is_batch_paused: watch::Sender<bool>,
    /// Cancelled when the worker stops: what is not in the model goes back to its queue.
    pub(super) stopping: CancellationToken,
    /// Whether it goes on where the store has no room.
    pub(super) survives_full_store: bool,
    pub(super) name: String,
    /// The queue of the worker's tasks.
    pub(super) source: Arc<str>,
}

impl<W: StageWork> Worker<W> {
    /// Waits for `work`, unless the worker is asked to stop before.
    pub(super) async fn unless_stopping<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, TaskError> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(TaskError::Requeue("the worker stops")),
            done = work => Ok(done),
        }
    }

    /// Returns once batch work is paused.
    pub(super) async fn batch_paused(&self) {
        let mut is_paused = self.is_batch_paused.subscribe();
        // The sender is the worker's own.
        drop(is_paused.wait_for(|is_paused| *is_paused).await);
    }

    /// Repeats reading from the object store while it does not answer, unless the worker is asked to stop before.
    pub(super) async fn retry_unless_stopping<T, F>(
        &self,
        operation: impl FnMut() -> F,
    ) -> Result<T, TaskError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let answered = self.unless_stopping(self.reading.run(operation)).await?;
        answered.map_err(TaskError::from)
    }

    /// Fails where this worker does not hold the component that the task was made for.
    pub(super) fn check_component(&self, wanted: &ContentHash) -> Result<(), Failure> {
        let component = self.work.component();
        if wanted == component {
            return Ok(());
        }
        let message = format!(
            "the task is for bundle component {}, this worker has {}; start workers with the run's bundle (--bundle, RADIALOG_BUNDLE)",
            wanted.short(),
            component.short()
        );
        Err(Failure::new(ErrorCode::BundleMismatch, message))
    }

    /// Fails where the task was made for a later revision of this stage's code: what this worker made would lie under that one's key
    /// for ever.
    pub(super) fn check_revision(&self, wanted: Option<u32>) -> Result<(), Failure> {
        let stage = self.work.stage();
        let own = *Stage::REVISIONS.get(stage);
        let Some(wanted) = wanted.filter(|wanted| *wanted > own) else {
            return Ok(());
        };
        let message = format!(
            "the task is for revision {wanted} of the stage {stage}, this worker has {own}; start workers of the coordinator's \
             release"
        );
        Err(Failure::new(ErrorCode::BundleMismatch, message))
    }

    /// Decides what follows when the model gave no answer, because it panicked or was closed: whether the item may be tried
    /// again, alone in the model. An item that made the model panic alone has failed.
    pub(super) fn may_retry_alone(&self, was_alone: bool) -> Result<(), TaskError> {
        if self.stopping.is_cancelled() {
            return Err(TaskError::Requeue("the worker stops"));
        }
        if was_alone {
            let message = "the model panicked on this task alone; see the worker's log";
            return Err(TaskError::Failed(Failure::new(ErrorCode::Crash, message)));
        }
        Ok(())
    }

    /// Counts what the model did for one item.
    pub(super) fn count_model_run(&self, output: &StageOutput) {
        self.metrics
            .model_time
            .observe(output.model_time.as_secs_f64());
        self.metrics.batch.observe(f64::from(output.batch));
        self.metrics.tokens.inc_by(u64::from(output.tokens));
    }

    /// Reads the depth of the queue for the metrics.
    pub(super) async fn observe_queue(self: Arc<Self>) {
        match self.queue.depth(&self.source).await {
            Ok(depth) => self.metrics.waiting(depth, self.service_time.average()),
            Err(error) => tracing::debug!(%error, "the depth of the queue is unknown"),
        }
    }
}
