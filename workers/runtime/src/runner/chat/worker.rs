//! What all turns of conversations that a worker answers share.

use std::sync::Arc;

use radialog_schemas::{ConversationId, ErrorCode, Failure};

use crate::conversations::Conversations;
use crate::metrics::ChatMetrics;
use crate::runner::error::TaskError;
use crate::runner::single_flight::SingleFlight;
use crate::runner::store_retry::{RetryError, StoreRetry};
use crate::stage::ChatWork;
use crate::state::StateError;

/// The part of a worker that answers turns.
pub(in crate::runner) struct ChatWorker<I> {
    pub(super) work: Arc<dyn ChatWork<Input = I>>,
    pub(super) conversations: Arc<dyn Conversations>,
    /// The turns that this worker answers. A broken connection brings a turn again while it is being answered.
    pub(super) turns: SingleFlight<(ConversationId, u32)>,
    pub(super) metrics: ChatMetrics,
    store_retry: StoreRetry,
}

impl<I: Send + 'static> ChatWorker<I> {
    /// The number of turns to prefetch: those in the model and one that waits, so that the model knows of it.
    pub(in crate::runner) fn prefetch(&self) -> u16 {
        u16::try_from(self.work.turn_limit().saturating_add(1)).unwrap_or(u16::MAX)
    }
}

impl<I> ChatWorker<I> {
    pub(in crate::runner) fn new(
        work: Arc<dyn ChatWork<Input = I>>,
        conversations: Arc<dyn Conversations>,
        store_retry: StoreRetry,
        metrics: ChatMetrics,
    ) -> Self {
        Self {
            work,
            conversations,
            turns: SingleFlight::default(),
            metrics,
            store_retry,
        }
    }

    /// Repeats a call while the conversations' store does not answer.
    pub(super) async fn until_answered<T, F>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T, TaskError>
    where
        F: Future<Output = Result<T, StateError>>,
    {
        let outcome = self.store_retry.run(|| {
            let call = call();
            async move {
                call.await
                    .map_err(|error| Failure::new(ErrorCode::ObjectStore, error))
            }
        });
        outcome.await.map_err(|error| match error {
            RetryError::Failed(failure) => TaskError::Failed(failure),
            RetryError::StoreAway => TaskError::Requeue("the conversations' store is away"),
        })
    }
}
