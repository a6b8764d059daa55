//! Work on files, beside the async threads: those must stay free to answer, however slow a disk is.

use std::io;

/// Reads or writes files where no other task waits for it. What has begun is done to its end, also where the caller goes away.
///
/// # Errors
/// What the work gives; where it panicked, an error of kind [`io::ErrorKind::Other`].
pub async fn io<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}
