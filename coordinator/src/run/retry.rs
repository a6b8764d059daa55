//! Waiting out a lost broker, store or state. Everything a coordinator does to them is idempotent, so that it may be
//! tried again until it works or the process is asked to stop.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::CoordinatorError;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Tries again with growing delay, and knows what it waits for.
#[derive(Clone)]
pub(crate) struct RetryUntilShutdown {
    shutdown: CancellationToken,
    last_error: Arc<Mutex<Option<String>>>,
}

impl RetryUntilShutdown {
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self {
            shutdown,
            last_error: Arc::default(),
        }
    }

    /// What is being waited for right now, for people.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// The first success of `attempt`.
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
        let mut wait = FIRST_WAIT;
        let mut failed = false;
        loop {
            let result = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(CoordinatorError::Stopped),
                result = attempt() => result,
            };
            match result {
                Ok(value) => {
                    if failed {
                        info!("works again");
                        self.note(None);
                    }
                    return Ok(value);
                }
                Err(error) => {
                    if !failed {
                        warn!(%error, "paused until this works again");
                    }
                    failed = true;
                    self.note(Some(error.to_string()));
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Err(CoordinatorError::Stopped),
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn note(&self, last_error: Option<String>) {
        *self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = last_error;
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
    async fn a_stop_ends_the_waiting() {
        let shutdown = CancellationToken::new();
        let retry = RetryUntilShutdown::new(shutdown.clone());
        let waiting = retry.until_success(|| async { Err::<(), _>("no broker") });
        let stop = async {
            tokio::time::sleep(FIRST_WAIT / 2).await;
            shutdown.cancel();
        };
        let (result, ()) = tokio::join!(waiting, stop);
        assert!(matches!(result, Err(CoordinatorError::Stopped)));
    }
}
