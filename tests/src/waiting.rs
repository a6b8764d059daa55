//! Waiting for a state, and never for a time.

use std::time::Duration;

use anyhow::{Context, Result};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(10);

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

async fn waited<T>(
    what: &str,
    patience: Duration,
    looking: impl Future<Output = Result<T>>,
) -> Result<T> {
    let waited = tokio::time::timeout(patience, looking).await;
    waited.with_context(|| format!("after {patience:?}: {what}"))?
}
