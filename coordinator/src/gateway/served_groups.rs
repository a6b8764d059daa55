//! The groups of queues that this gateway serves, as it tells the others: they take turns of conversations whose bundle they do
//! not have as long as somebody serves its group. A group that was given up would have them wait for ever.

use std::sync::Arc;
use std::time::Duration;

use radialog_runtime::backends::Backends;
use radialog_runtime::state::{State, StateError};
use radialog_schemas::QueueGroup;
use tokio_util::sync::CancellationToken;

use crate::ServedBundles;

/// How often it is told.
const EVERY: Duration = Duration::from_secs(30);
/// How soon it is told again where it could not be: a state that was away for long has let what it was told before run out.
const AGAIN: Duration = Duration::from_secs(1);
/// It counts for so many times as long, so that nobody refuses turns where it was not told in time.
const TIMES: u32 = 4;

/// The groups of a gateway's bundles.
pub(super) struct ServedGroups {
    state: Arc<dyn State>,
    groups: Vec<QueueGroup>,
    every: Duration,
}

impl ServedGroups {
    pub(super) fn new(backends: &Backends, bundles: &ServedBundles) -> Self {
        let groups = bundles.bundles().iter();
        let groups = groups.filter_map(|bundle| bundle.group.clone());
        Self {
            state: backends.state.clone(),
            groups: groups.collect(),
            every: EVERY,
        }
    }

    /// Tells it once.
    pub(super) async fn tell(&self) -> Result<(), StateError> {
        for group in &self.groups {
            let during = TIMES * self.every;
            self.state.serve_group(group, during).await?;
        }
        Ok(())
    }

    /// Tells it again and again, until the shutdown.
    pub(super) async fn keep_telling(self, shutdown: CancellationToken) {
        let telling = async {
            let mut told = Ok(());
            loop {
                tokio::time::sleep(self.pause(&told)).await;
                told = self.tell().await;
                if let Err(error) = &told {
                    tracing::warn!(%error, "other gateways do not hear which groups are served here; they are told again");
                }
            }
        };
        shutdown.run_until_cancelled(telling).await;
    }

    /// How long it is not told, after it was told so.
    fn pause(&self, told: &Result<(), StateError>) -> Duration {
        match told {
            Ok(()) => self.every,
            Err(_) => self.every.min(AGAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use radialog_runtime::state::memory::MemoryState;

    use super::*;

    #[tokio::test]
    async fn what_is_served_is_told_again_and_again() {
        let state: Arc<dyn State> = Arc::new(MemoryState::default());
        let group: QueueGroup = "v2".parse().unwrap();
        let served = ServedGroups {
            state: state.clone(),
            groups: vec![group.clone()],
            every: Duration::from_millis(10),
        };
        let stop = CancellationToken::new();
        let telling = tokio::spawn(served.keep_telling(stop.clone()));
        let is_told = async || {
            while !state.is_served(&group).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        for _ in 0..2 {
            let told = tokio::time::timeout(Duration::from_secs(60), is_told());
            told.await.expect("it is not told");
            // What was told does not count any more.
            state.serve_group(&group, Duration::ZERO).await.unwrap();
        }
        stop.cancel();
        telling.await.unwrap();
    }

    #[test]
    fn what_could_not_be_told_is_told_soon() {
        let served = ServedGroups {
            state: Arc::new(MemoryState::default()),
            groups: Vec::new(),
            every: EVERY,
        };
        assert_eq!(served.pause(&Ok(())), EVERY);
        assert_eq!(served.pause(&Err(StateError("down".into()))), AGAIN);
    }
}
