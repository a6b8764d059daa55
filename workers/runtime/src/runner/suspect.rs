//! Messages that may be killing their workers. A worker that dies takes no note of what killed it, and the broker gives
//! the same message to the next one, together with innocent neighbours. So a message that came back more than once is a
//! suspect: suspects run one at a time, and before one runs, its next attempt already waits in a retry queue. Whoever
//! dies on it has counted an attempt by that; whoever survives finds the attempt needless later, at the price of a look
//! into the object store.

use radialog_schemas::queues::{self, RETRY_DELAYS};
use radialog_schemas::{ErrorCode, Failure};
use tokio::sync::MutexGuard;

use super::held::Held;
use super::task::{Setback, Worker};
use crate::queue::QueueError;
use crate::stage::StageWork;

/// Coming back once happens to every message that a dying, stopping or disconnected worker held.
const SUSPECT_RETURNS: u32 = 2;

/// Keeps other suspects out of the model.
pub(super) type Turn<'a> = MutexGuard<'a, ()>;

impl<W: StageWork> Worker<W> {
    /// The turn of a suspect to run, with its next attempt queued and this one acknowledged; none for other messages.
    /// A suspect without attempts left has failed.
    pub(super) async fn suspect_turn(&self, held: &mut Held) -> Result<Option<Turn<'_>>, Setback> {
        if held.delivery_count < SUSPECT_RETURNS {
            return Ok(None);
        }
        if held.message.attempt as usize >= RETRY_DELAYS.len() {
            let returns = held.delivery_count;
            let message = format!(
                "the workers that had this task went away {returns} times; it may be what kills them"
            );
            return Err(Setback::Failure(Failure::new(ErrorCode::Crash, message)));
        }
        let turn = self.unless_stopping(self.suspects.lock()).await?;
        tracing::warn!(
            delivery_count = held.delivery_count,
            "the task came back more than once; it runs alone, insured by a retry"
        );
        self.insure(held).await.map_err(|error| {
            tracing::warn!(%error, "a suspect could not be insured");
            Setback::HandBack("the broker is away")
        })?;
        Ok(Some(turn))
    }

    async fn insure(&self, held: &mut Held) -> Result<(), QueueError> {
        self.queue
            .publish(
                &queues::retry(held.source, held.message.attempt as usize),
                held.again(),
            )
            .await?;
        match held.receipt.take() {
            Some(receipt) => receipt.ack().await,
            None => Ok(()),
        }
    }
}
