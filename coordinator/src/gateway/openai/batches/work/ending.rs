//! How a batch ends: decided once by whoever holds it, and done by whoever finds it decided.

use radialog_schemas::ConversationId;
use radialog_schemas::http::openai_batches::{BatchLineFault, FilePurpose, RequestBatchStatus};
use tracing::info;

use super::{BatchWork, PIECE_LINES};
use crate::conversation::retention;
use crate::error::BackendError;
use crate::gateway::openai::batches::{batch_id, line};
use crate::gateway::problem::ApiResult;
use crate::request_store::batches::{self, BatchDocument};
use crate::request_store::files::{self, FileHead, LIFETIME};
use crate::request_store::now;

/// Lines whose conversations are looked for at a time.
const AT_A_TIME: u64 = 512;

impl BatchWork<'_> {
    /// Ends the batch as failed.
    pub(super) async fn fail(
        &self,
        document: &BatchDocument,
        faults: Vec<BatchLineFault>,
    ) -> ApiResult<()> {
        let outcome = RequestBatchStatus::Failed;
        self.conclude(document, outcome, faults).await
    }

    /// Decides how the batch ends, and ends it.
    pub(super) async fn conclude(
        &self,
        document: &BatchDocument,
        outcome: RequestBatchStatus,
        faults: Vec<BatchLineFault>,
    ) -> ApiResult<()> {
        let is_open = |known: &BatchDocument| {
            !known.status.is_final() && known.status != RequestBatchStatus::Finalizing
        };
        let concluded = self.runner.change(self.batch, |known| {
            let is_mine = known.is_held_by(&self.runner.name) && known.place == document.place;
            let is_mine = is_mine && is_open(known);
            if is_mine {
                known.conclude(outcome, faults.clone());
            }
            is_mine
        });
        match concluded.await? {
            Some(known) if known.status == RequestBatchStatus::Finalizing => {
                self.settle(&known).await
            }
            _ => Ok(()),
        }
    }

    /// Puts the outputs together and ends the batch. Whoever does this for a concluded batch does the same.
    pub(super) async fn settle(&self, document: &BatchDocument) -> ApiResult<()> {
        self.remove_conversations(document).await?;
        let (objects, owner) = (self.runner.objects(), &self.batch.owner);
        let finalizing = document.times.finalizing.unwrap_or_else(now);
        for (file, kind) in [(&document.answers, "output"), (&document.refusals, "error")] {
            if file.parts == 0 {
                continue;
            }
            let head = FileHead {
                bytes: file.bytes,
                parts: file.parts,
                created_at: finalizing,
                expires_at: finalizing + LIFETIME.as_secs(),
                filename: format!("{}_{kind}.jsonl", batch_id(&self.batch.name)),
                purpose: FilePurpose::BatchOutput,
                writers: file.writers.clone(),
                is_damaged: false,
            };
            files::put_head(objects, owner, &file.name, &head).await?;
        }
        let ended = self.runner.change(self.batch, |known| {
            let is_concluded = known.status == RequestBatchStatus::Finalizing;
            if is_concluded {
                known.end();
            }
            is_concluded
        });
        let Some(ended) = ended.await?.filter(|known| known.status.is_final()) else {
            return Ok(());
        };
        batches::close(objects, owner, &self.batch.name).await?;
        info!(batch = self.batch.name, status = ?ended.status, "a batch of requests has ended");
        Ok(())
    }

    /// Removes the conversations of its lines that are still there. Each goes with its answer, but where a gateway dies after it
    /// has written that, or Redis is away for long; responses that are stored stay.
    async fn remove_conversations(&self, document: &BatchDocument) -> ApiResult<()> {
        let backends = &self.runner.app.backends;
        // Those that were being answered may have begun, too.
        let last = document
            .place
            .line
            .saturating_add(PIECE_LINES as u64)
            .min(document.counts.total);
        let mut first = 1;
        while first <= last {
            let numbers = first..=last.min(first + AT_A_TIME - 1);
            first = numbers.end() + 1;
            let ids: Vec<ConversationId> = numbers
                .map(|number| line::conversation(&self.batch.name, number))
                .collect();
            let begun = backends.conversations.beginnings(&ids).await;
            for (id, begun) in ids.iter().zip(begun.map_err(BackendError::from)?) {
                if begun.is_ok_and(|one| one.is_some_and(|one| one.lifetime_seconds.is_some())) {
                    retention::remove(backends, id).await?;
                }
            }
        }
        Ok(())
    }
}
