//! The sweeper of turns: what is queued and ready, and of which nobody has told the workers. A gateway was killed between
//! writing a turn and publishing it, the answer of the state store was lost, or the broker has lost its queues. Every
//! gateway and every coordinator sweeps; a conversation is attended to by one of them at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use radialog_runtime::backends::Backends;
use radialog_runtime::clock::now_ms;
use radialog_runtime::conversations::UnattendedConversation;
use radialog_runtime::metrics::metrics;
use radialog_schemas::{QueueGroup, Stage, TurnStatus, queues};
use tokio_util::sync::CancellationToken;

use super::go_on;
use crate::error::BackendError;
use crate::served_bundles::ServedBundles;

/// Whatever a turn's time says (clocks differ), it is given again after so long at the latest.
const LONGEST_PATIENCE: Duration = Duration::from_secs(3600);
/// Conversations looked at in one sweep; more than turns may wait.
const PAGE: usize = 1000;
/// Where the queue is not empty the turn is probably in it: so many times longer before it counts as forgotten.
const PATIENCE_WITH_MESSAGES: u32 = 10;

/// A sweeper of the turns of all conversations, not yet running.
pub struct TurnSweeper {
    backends: Backends,
    bundles: Option<ServedBundles>,
    forgotten_after: Duration,
    shutdown: CancellationToken,
}

impl TurnSweeper {
    /// After so long a turn that nobody has attended to counts as forgotten.
    pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

    /// A sweeper that works until `shutdown`. Without the bundle of a conversation it leaves images that are not prepared to
    /// those who have it.
    pub fn new(
        backends: Backends,
        bundles: Option<ServedBundles>,
        forgotten_after: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            backends,
            bundles,
            forgotten_after,
            shutdown,
        }
    }

    /// Sweeps twice in the time after which a turn counts as forgotten, until the shutdown.
    pub async fn run(self) {
        let sweeping = async {
            loop {
                tokio::time::sleep(self.forgotten_after / 2).await;
                if let Err(error) = self.sweep().await {
                    tracing::warn!(%error, "forgotten turns were not looked for; the next sweep comes");
                }
            }
        };
        self.shutdown.run_until_cancelled(sweeping).await;
    }

    /// Gives forgotten turns to the workers again, and returns of how many conversations. Publishing a turn twice is
    /// harmless: it is answered once.
    ///
    /// # Errors
    /// When broker or state do not answer; the next sweep does what this one has not.
    pub async fn sweep(&self) -> Result<usize, BackendError> {
        let conversations = &self.backends.conversations;
        let mut given = 0;
        let found = conversations.unattended(self.forgotten_after, PAGE).await?;
        let groups: BTreeSet<&QueueGroup> = found
            .iter()
            .filter_map(|unattended| unattended.snapshot.conversation.group.as_ref())
            .collect();
        for group in groups {
            // A broker that has lost its queues, or a group that nobody serves now: one conversation must not keep the sweep
            // from all others.
            self.backends.queue.declare_group(group).await?;
            // Whoever looks at queues is to see that these are there, and what waits in them.
            self.backends.state.note_group(group).await?;
        }
        for unattended in found {
            let open = unattended.snapshot.turns.iter();
            let first = open.into_iter().find(|turn| !turn.status.is_final());
            match first {
                // Its worker is at it, or its message comes again.
                Some(turn) if turn.status == TurnStatus::Running => {
                    conversations.attend(&unattended).await?;
                }
                Some(turn)
                    if self.is_due(&unattended, turn.request.asked_ms).await?
                        && conversations.attend(&unattended).await?
                        && self.give(&unattended).await? =>
                {
                    given += 1;
                }
                _ => {}
            }
        }
        Ok(given)
    }

    /// Whether it is time: twice as long after each attempt, so that a turn that waits for hours is not in the queue a
    /// hundred times.
    async fn is_due(
        &self,
        unattended: &UnattendedConversation,
        asked_ms: u64,
    ) -> Result<bool, BackendError> {
        let UnattendedConversation { snapshot, since_ms } = unattended;
        let is_prepared = snapshot.conversation.image.is_none() || snapshot.prepared.is_some();
        let group = snapshot.conversation.group.as_ref();
        let in_group = |queue| queues::in_group(queue, group);
        let queues = match is_prepared {
            true => vec![snapshot.conversation.queue()],
            false => vec![
                in_group(queues::work(Stage::Embedding)),
                in_group(queues::work(Stage::Findings)),
                queues::RESULTS.into(),
            ],
        };
        let mut patience = self.forgotten_after;
        for queue in queues {
            if self.backends.queue.depth(&queue).await? > 0 {
                patience = PATIENCE_WITH_MESSAGES * self.forgotten_after;
            }
        }
        let waited_before = Duration::from_millis(since_ms.saturating_sub(asked_ms));
        let waited_since = Duration::from_millis(now_ms().saturating_sub(*since_ms));
        Ok(waited_since >= patience.max(waited_before.min(LONGEST_PATIENCE)))
    }

    async fn give(&self, unattended: &UnattendedConversation) -> Result<bool, BackendError> {
        let snapshot = &unattended.snapshot;
        let bundle = self
            .bundles
            .as_ref()
            .and_then(|bundles| bundles.of_group(snapshot.conversation.group.as_ref()))
            .map(|bundle| &bundle.hashes);
        let given = go_on(&self.backends, bundle, snapshot).await?;
        if given {
            metrics().chat_republished.inc();
            tracing::info!(conversation = %snapshot.conversation.id, "a turn was forgotten and is given to the workers again");
        }
        Ok(given)
    }
}
