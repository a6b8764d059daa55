//! Why a worker ends by itself, and why one task of it has no output.

use radialog_schemas::Failure;
use tokio::task::JoinError;

use super::store_retry::RetryError;
use crate::objects::ObjectError;
use crate::queue::QueueError;

/// The reason why a worker ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The subscription could not be made.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Nothing more can be stored: every further task would fail in the same way.
    #[error("{0}")]
    StoreFull(String),
    /// The model's thread could not be started.
    #[error("no thread for the model: {0}; raise the process's limits")]
    Thread(#[from] std::io::Error),
    /// A task of the runner ended in a way that it cannot; a defect.
    #[error("a task ended unexpectedly: {0}; please report this")]
    Task(JoinError),
}

/// The reason why a task or a turn has no output yet.
pub(super) enum TaskError {
    /// The attempt failed; the failure's class says whether another one may succeed.
    Failed(Failure),
    /// It was not the task's fault: another worker should have it soon, with no attempt counted.
    Requeue(&'static str),
    /// Turns need the model, which has not begun with it: another worker should have it, as if this one had never had it.
    HandBack,
    /// The output cannot be stored, and neither can any other; the worker ends.
    StoreFull(ObjectError),
}

impl From<RetryError> for TaskError {
    fn from(error: RetryError) -> Self {
        match error {
            RetryError::Failed(failure) => TaskError::Failed(failure),
            RetryError::StoreAway => TaskError::Requeue("the object store is away"),
        }
    }
}
