//! How a batch ends: decided once by whoever holds it, and done by whoever finds it decided.

use radialog_schemas::http::openai_batches::{BatchLineFault, FilePurpose, RequestBatchStatus};
use radialog_schemas::{Conversation, ConversationId};
use tracing::info;

use super::BatchWork;
use crate::conversation::retention;
use crate::error::BackendError;
use crate::gateway::openai::batches::{batch_id, line};
use crate::gateway::problem::ApiResult;
use crate::request_store::batches::{self, BatchDocument};
use crate::request_store::files::{self, FileHead, LIFETIME};
use crate::request_store::now;

/// Lines whose conversations are looked for at a time.
const AT_A_TIME: u64 = 512;
/// How far behind the last line that was told of one may have begun: a piece of lines, with the blank ones between them.
const REACH: u64 = 1024;
/// Lines that are looked at, the last ones: a file has as many requests at most, and may have millions of blank lines.
const LOOKED_AT: u64 = 100_000;

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
    /// has written that, or Redis is away for long; responses that are stored stay, of lines that somebody was told of.
    async fn remove_conversations(&self, document: &BatchDocument) -> ApiResult<()> {
        if document.counts.total == 0 {
            // Nothing was asked.
            return Ok(());
        }
        let told = document.place.line;
        let is_over = |number: u64, one: &Conversation| {
            let is_untold = number > told && !document.ahead.contains(&number);
            one.lifetime_seconds.is_some() || is_untold
        };
        let last = last_begun(document);
        let mut first = last.saturating_sub(LOOKED_AT) + 1;
        while first <= last {
            let numbers = first..=last.min(first + AT_A_TIME - 1);
            first = numbers.end() + 1;
            self.remove_begun(numbers.collect(), is_over).await?;
        }
        Ok(())
    }

    /// Removes the conversations of these lines that are there and, so `is_over` says, of no more use.
    pub(super) async fn remove_begun(
        &self,
        numbers: Vec<u64>,
        is_over: impl Fn(u64, &Conversation) -> bool,
    ) -> ApiResult<()> {
        let backends = &self.runner.app.backends;
        let ids: Vec<ConversationId> = numbers
            .iter()
            .map(|number| line::conversation(&self.batch.name, *number))
            .collect();
        let begun = backends.conversations.beginnings(&ids).await;
        let begun = begun.map_err(BackendError::from)?;
        for ((number, id), begun) in numbers.into_iter().zip(&ids).zip(begun) {
            if begun.is_ok_and(|one| one.is_some_and(|one| is_over(number, &one))) {
                retention::remove(backends, id).await?;
            }
        }
        Ok(())
    }
}

/// The last line that may have a conversation: where all are told of, the last of them, and else one behind them.
fn last_begun(document: &BatchDocument) -> u64 {
    let (told, counts) = (document.place.line, &document.counts);
    match counts.completed + counts.failed >= counts.total {
        // The place stands behind the last one that was refused for its time; those that had an answer by then may come later.
        true => document.ahead.iter().copied().fold(told, u64::max),
        false => told.saturating_add(REACH),
    }
}

#[cfg(test)]
mod tests {
    use radialog_schemas::http::openai_batches::BatchEndpoint;

    use super::*;
    use crate::request_store::batches::{BatchTimes, InputPlace};
    use crate::request_store::new_name;

    #[test]
    fn where_all_lines_are_told_of_those_ahead_of_the_place_are_looked_at_too() {
        let (endpoint, times) = (BatchEndpoint::ChatCompletions, BatchTimes::default());
        let mut document =
            BatchDocument::new("b", "ward".to_owned(), endpoint, new_name(), None, times);
        // The first of eight lines had no answer when the batch was late, and the others had one.
        document.place = InputPlace {
            line: 1,
            offset: 10,
        };
        document.ahead = (2..=8).collect();
        document.counts.total = 8;
        document.counts.completed = 7;
        assert_eq!(last_begun(&document), 1 + REACH);
        document.counts.failed = 1;
        assert_eq!(last_begun(&document), 8);
        document.ahead.clear();
        assert_eq!(last_begun(&document), 1);
    }
}
