//! Waiting for a state, and never for a time.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Client;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Longer than an answer takes to begin or to go on, on a machine that others keep busy, too.
const ANSWER: Duration = Duration::from_secs(180);

/// Waits until something is so.
///
/// # Errors
/// What looking gives; with `what`, where it is not so within `patience`.
pub async fn until<F: Future<Output = Result<bool>>>(
    what: &str,
    patience: Duration,
    mut is_so: impl FnMut() -> F,
) -> Result<()> {
    let looking = async {
        while !is_so().await? {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    };
    waited(what, patience, looking).await
}

/// Waits until there is something, and gives it.
///
/// # Errors
/// What looking gives; with `what`, where there is nothing within `patience`.
pub async fn found<T, F: Future<Output = Result<Option<T>>>>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> F,
) -> Result<T> {
    let looking = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    waited(what, patience, looking).await
}

/// A client whose request fails where no answer comes, or where one does not go on.
pub fn client() -> Client {
    let client = Client::builder().read_timeout(ANSWER).build();
    client.expect("TLS and a resolver")
}

async fn waited<T>(
    what: &str,
    patience: Duration,
    looking: impl Future<Output = Result<T>>,
) -> Result<T> {
    let waited = tokio::time::timeout(patience, looking).await;
    waited.with_context(|| format!("after {patience:?}: {what}"))?
}
