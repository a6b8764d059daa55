//! Waiting out a lost broker, store or state. Everything a coordinator does to them is idempotent, so that it may be
//! tried again until it works or the process is asked to stop.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use radialog_runtime::backoff::Backoff;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::CoordinatorError;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A policy that tries again with growing pauses until the shutdown, and knows what it waits for.
#[derive(Clone)]
pub(crate) struct RetryUntilShutdown {
    shutdown: CancellationToken,
    last_error: Arc<Mutex<Option<String>>>,
}

/// The reason why one attempt failed.
#[derive(Debug)]
pub(crate) enum AttemptError<E, F> {
    /// A backend does not answer: the next attempt may work.
    Unavailable(E),
    /// Further attempts would change nothing.
    Fatal(F),
}

impl RetryUntilShutdown {
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self {
            shutdown,
            last_error: Arc::default(),
        }
    }

    /// Says what is being waited for right now, for people.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Repeats `attempt`, every failure of which may pass, until it succeeds.
    ///
    /// # Errors
    /// Only [`CoordinatorError::Stopped`].
    pub(crate) async fn until_success<T, E, F>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, CoordinatorError>
    where
        E: Display,
        F: Future<Output = Result<T, E>>,
    {
        let fallible = || {
            let attempt = attempt();
            async move { attempt.await.map_err(AttemptError::Unavailable) }
        };
        self.until_settled(fallible).await
    }

    /// Repeats `attempt` until it succeeds or fails for good.
    ///
    /// # Errors
    /// The fatal failure, or [`CoordinatorError::Stopped`].
    pub(crate) async fn until_settled<T, E, G, F>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, G>
    where
        E: Display,
        G: From<CoordinatorError>,
        F: Future<Output = Result<T, AttemptError<E, G>>>,
    {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut failed = false;
        loop {
            let result = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(CoordinatorError::Stopped.into()),
                result = attempt() => result,
            };
            let error = match result {
                Err(AttemptError::Unavailable(error)) => error,
                Err(AttemptError::Fatal(error)) => {
                    self.recovered(failed);
                    return Err(error);
                }
                Ok(value) => {
                    self.recovered(failed);
                    return Ok(value);
                }
            };
            if !failed {
                warn!(%error, "paused until this works again");
            }
            failed = true;
            self.note(Some(error.to_string()));
            tokio::select! {
                () = self.shutdown.cancelled() => return Err(CoordinatorError::Stopped.into()),
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    fn recovered(&self, failed: bool) {
        if failed {
            info!("works again");
            self.note(None);
        }
    }

    fn note(&self, error: Option<String>) {
        *self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = error;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_is_tried_again_and_shown_meanwhile() {
        let retry = RetryUntilShutdown::new(CancellationToken::new());
        let mut left = 3;
        let seen = retry.clone();
        let value = retry
            .until_success(|| {
                left -= 1;
                let result = if left > 0 {
                    Err("no broker")
                } else {
                    Ok(seen.last_error())
                };
                async move { result }
            })
            .await;
        assert_eq!(value.unwrap().as_deref(), Some("no broker"));
        assert_eq!(retry.last_error(), None);
    }

    #[tokio::test]
    async fn a_fatal_failure_is_not_tried_again() {
        let retry = RetryUntilShutdown::new(CancellationToken::new());
        let mut attempts = 0;
        let result: Result<(), CoordinatorError> = retry
            .until_settled(|| {
                attempts += 1;
                let error = match attempts {
                    1 => AttemptError::Unavailable("no broker"),
                    _ => AttemptError::Fatal(CoordinatorError::Stopped),
                };
                async move { Err(error) }
            })
            .await;
        assert!(matches!(result, Err(CoordinatorError::Stopped)));
        assert_eq!((attempts, retry.last_error()), (2, None));
    }

    #[tokio::test]
    async fn a_stop_ends_the_waiting() {
        let shutdown = CancellationToken::new();
        let retry = RetryUntilShutdown::new(shutdown.clone());
        let waiting = retry.until_success(|| async { Err::<(), _>("no broker") });
        let stop = async {
            tokio::time::sleep(FIRST_PAUSE / 2).await;
            shutdown.cancel();
        };
        let (result, ()) = tokio::join!(waiting, stop);
        assert!(matches!(result, Err(CoordinatorError::Stopped)));
    }
}
