//! Starting while broker, store or state do not answer yet: everything is tried again until the start timeout, and said
//! in the log, so that a process that waits does not look like one that hangs.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::Backoff;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
/// How often it is said what is being waited for.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What one attempt came to.
pub(crate) enum StartError<E> {
    /// The next attempt may work.
    Later(E),
    /// Waiting would change nothing.
    Never(E),
}

/// Repeats `attempt`, which is to do `what`, until it works or `timeout` is over.
///
/// # Errors
/// The last failure; `no_answer` where the last attempt did not even fail.
pub(crate) async fn until_started<T, E: Display, F>(
    what: &str,
    timeout: Duration,
    no_answer: impl FnOnce() -> E,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, StartError<E>>>,
{
    let deadline = Instant::now() + timeout;
    let mut backoff = BACKOFF;
    let mut last_error = None;
    let mut said: Option<Instant> = None;
    loop {
        match timeout_at(deadline, attempt()).await {
            Ok(Ok(value)) => {
                if last_error.is_some() {
                    tracing::info!(what, "works now; the start goes on");
                }
                return Ok(value);
            }
            Ok(Err(StartError::Never(error))) => return Err(error),
            Ok(Err(StartError::Later(error))) => {
                let pause = backoff.next();
                let left = deadline.saturating_duration_since(Instant::now());
                if left <= pause {
                    return Err(error);
                }
                if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                    tracing::warn!(what, %error, left_s = left.as_secs(), "the start waits and tries again");
                    said = Some(Instant::now());
                }
                last_error = Some(error);
                sleep(pause).await;
            }
            Err(_) => return Err(last_error.unwrap_or_else(no_answer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn start(
        timeout: Duration,
        mut answers: Vec<Result<u8, StartError<&'static str>>>,
    ) -> (Result<u8, &'static str>, usize) {
        answers.reverse();
        let mut attempts = 0;
        let started = until_started(
            "test",
            timeout,
            || "no answer",
            || {
                attempts += 1;
                let answer = answers.pop();
                async move {
                    match answer {
                        Some(answer) => answer,
                        None => std::future::pending().await,
                    }
                }
            },
        )
        .await;
        (started, attempts)
    }

    #[tokio::test]
    async fn what_fails_is_tried_again_until_it_works() {
        let answers = vec![
            Err(StartError::Later("reset")),
            Err(StartError::Later("refused")),
            Ok(7),
        ];
        assert_eq!(start(Duration::from_secs(60), answers).await, (Ok(7), 3));
    }

    #[tokio::test]
    async fn what_waiting_does_not_change_is_told_at_once() {
        let answers = vec![
            Err(StartError::Later("reset")),
            Err(StartError::Never("another kind of queue")),
        ];
        let (started, attempts) = start(Duration::from_secs(60), answers).await;
        assert_eq!((started, attempts), (Err("another kind of queue"), 2));
    }

    #[tokio::test]
    async fn the_last_failure_is_told_after_the_timeout() {
        let soon = Duration::from_millis(300);
        let later = || Err(StartError::Later("reset"));
        assert_eq!(start(soon, vec![later()]).await.0, Err("reset"));
        assert_eq!(start(soon, vec![]).await.0, Err("no answer"));
        let many = (0..20).map(|_| later()).collect();
        assert_eq!(start(soon, many).await.0, Err("reset"));
    }
}
