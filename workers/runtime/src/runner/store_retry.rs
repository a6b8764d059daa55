//! What to do while a store, of objects or of conversations, does not answer: wait in place. Failing every task instead
//! would burn their attempts one after the other and fill the dead-letter queue with work that is perfectly fine.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use radialog_schemas::{ErrorCode, Failure};

use crate::backoff::Backoff;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// After so many failures beside successes of others it is not the store, it is this object.
const TRIES_BESIDE_SUCCESS: u32 = 6;

/// Repeats operations on a store while it does not answer. All tasks of a worker share one, and with it the knowledge
/// whether the store answers others.
pub(super) struct StoreRetry {
    /// What the log calls the store.
    store: &'static str,
    limit: Duration,
    backoff: Backoff,
    last_answer: Mutex<Instant>,
}

/// The reason why an operation was given up.
#[derive(Debug)]
pub(super) enum RetryError {
    /// The operation failed in a way that is not the store's absence.
    Failed(Failure),
    /// The store has not answered for longer than the limit.
    StoreAway,
}

impl StoreRetry {
    /// Gives up where the store has not come back after `limit`.
    pub(super) fn new(store: &'static str, limit: Duration) -> Self {
        Self {
            store,
            limit,
            backoff: BACKOFF,
            last_answer: Mutex::new(Instant::now()),
        }
    }

    /// Runs an operation, and repeats it with growing pauses while it fails as [`ErrorCode::ObjectStore`], the code for every
    /// store that does not answer.
    pub(super) async fn run<T, F>(&self, mut operation: impl FnMut() -> F) -> Result<T, RetryError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let began = Instant::now();
        let mut backoff = self.backoff.clone();
        for tries in 1.. {
            match operation().await {
                Err(failure) if failure.code == ErrorCode::ObjectStore => {
                    let others_succeed = self.last_answer() > began;
                    if others_succeed && tries >= TRIES_BESIDE_SUCCESS {
                        return Err(RetryError::Failed(failure));
                    }
                    let pause = backoff.next();
                    if began.elapsed() + pause > self.limit {
                        return Err(RetryError::StoreAway);
                    }
                    tracing::warn!(%failure, tries, pause_ms = pause.as_millis(), "waiting for {}", self.store);
                    tokio::time::sleep(pause).await;
                }
                answer => {
                    *self
                        .last_answer
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Instant::now();
                    return answer.map_err(RetryError::Failed);
                }
            }
        }
        unreachable!("the loop above ends only by returning")
    }

    fn last_answer(&self) -> Instant {
        *self
            .last_answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn retry(limit: Duration) -> StoreRetry {
        StoreRetry {
            backoff: Backoff::new(Duration::from_millis(1), Duration::from_secs(1)),
            ..StoreRetry::new("the store", limit)
        }
    }

    fn outage() -> Failure {
        Failure::new(ErrorCode::ObjectStore, "away")
    }

    #[tokio::test]
    async fn an_outage_is_waited_out() {
        let tries = AtomicU32::new(0);
        let operation = || async {
            match tries.fetch_add(1, Ordering::Relaxed) {
                0..4 => Err(outage()),
                tries => Ok(tries),
            }
        };
        assert!(matches!(
            retry(Duration::from_secs(10)).run(operation).await,
            Ok(4)
        ));
    }

    #[tokio::test]
    async fn a_store_that_stays_away_is_not_the_tasks_fault() {
        let given_up = retry(Duration::from_millis(20))
            .run(|| async { Err::<(), _>(outage()) })
            .await;
        assert!(
            matches!(given_up, Err(RetryError::StoreAway)),
            "{given_up:?}"
        );
    }

    #[tokio::test]
    async fn an_object_that_fails_beside_successes_of_others_is_the_tasks_own_trouble() {
        let retry = retry(Duration::from_secs(60));
        let operation = || async {
            assert!(retry.run(|| async { Ok(()) }).await.is_ok());
            Err::<(), _>(outage())
        };
        let given_up = retry.run(operation).await;
        assert!(
            matches!(given_up, Err(RetryError::Failed(_))),
            "{given_up:?}"
        );
    }

    #[tokio::test]
    async fn other_failures_pass_at_once() {
        let missing = || async { Err::<(), _>(Failure::new(ErrorCode::ObjectMissing, "gone")) };
        assert!(matches!(
            retry(Duration::ZERO).run(missing).await,
            Err(RetryError::Failed(_))
        ));
    }
}
