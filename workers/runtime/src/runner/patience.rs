//! What to do while the object store does not answer: wait in place. Failing every task instead would burn their
//! attempts one after the other and fill the dead-letter queue with work that is perfectly fine.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use radialog_schemas::{ErrorCode, Failure};

use crate::backoff::Backoff;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// After so many failures beside successes of others it is not the store, it is this object.
const TRIES_BESIDE_SUCCESS: u32 = 6;

/// What all tasks of a worker know about the store.
pub(super) struct Patience {
    limit: Duration,
    backoff: Backoff,
    last_answer: Mutex<Instant>,
}

/// Why an operation was given up.
#[derive(Debug)]
pub(super) enum GivenUp {
    /// The task's own failure.
    Failure(Failure),
    /// The store has been away for longer than the limit.
    StoreAway,
}

impl Patience {
    /// Waits at most `limit` for the store to come back.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            backoff: BACKOFF,
            last_answer: Mutex::new(Instant::now()),
        }
    }

    /// Repeats an operation while the store does not answer, with growing pauses.
    pub(super) async fn wait<T, F>(&self, mut operation: impl FnMut() -> F) -> Result<T, GivenUp>
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
                        return Err(GivenUp::Failure(failure));
                    }
                    let pause = backoff.next();
                    if began.elapsed() + pause > self.limit {
                        return Err(GivenUp::StoreAway);
                    }
                    tracing::warn!(%failure, tries, pause_ms = pause.as_millis(), "waiting for the object store");
                    tokio::time::sleep(pause).await;
                }
                answer => {
                    *self
                        .last_answer
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Instant::now();
                    return answer.map_err(GivenUp::Failure);
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

    fn patience(limit: Duration) -> Patience {
        Patience {
            backoff: Backoff::new(Duration::from_millis(1), Duration::from_secs(1)),
            ..Patience::new(limit)
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
            patience(Duration::from_secs(10)).wait(operation).await,
            Ok(4)
        ));
    }

    #[tokio::test]
    async fn a_store_that_stays_away_is_not_the_tasks_fault() {
        let given_up = patience(Duration::from_millis(20))
            .wait(|| async { Err::<(), _>(outage()) })
            .await;
        assert!(matches!(given_up, Err(GivenUp::StoreAway)), "{given_up:?}");
    }

    #[tokio::test]
    async fn an_object_that_fails_beside_successes_of_others_is_the_tasks_own_trouble() {
        let patience = patience(Duration::from_secs(60));
        let operation = || async {
            assert!(patience.wait(|| async { Ok(()) }).await.is_ok());
            Err::<(), _>(outage())
        };
        let given_up = patience.wait(operation).await;
        assert!(matches!(given_up, Err(GivenUp::Failure(_))), "{given_up:?}");
    }

    #[tokio::test]
    async fn other_failures_pass_at_once() {
        let missing = || async { Err::<(), _>(Failure::new(ErrorCode::ObjectMissing, "gone")) };
        assert!(matches!(
            patience(Duration::ZERO).wait(missing).await,
            Err(GivenUp::Failure(_))
        ));
    }
}
