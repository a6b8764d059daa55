//! What all gateways know of a run: its documents in the shared state.

use std::sync::Arc;

use radialog_runtime::state::{State, StateError};
use radialog_schemas::RunId;
use serde::{Deserialize, Serialize};

use super::error::ArchiveRunsError;
use super::view::{ArchiveRunEnd, ArchiveRunRequest};
use crate::run::progress::RunProgress;
use crate::run::retry::{AttemptError, RetryUntilShutdown};

const REQUEST: &str = "batch";
const PROGRESS: &str = "batch-progress";
const END: &str = "batch-end";
const CANCEL: &str = "batch-cancel";
const PAUSED: &str = "batch-paused";

/// The documents of all runs over archives.
pub(super) struct ArchiveRunDocuments(pub(super) Arc<dyn State>);

impl ArchiveRunDocuments {
    /// Keeps a request where the run has none, and returns the one that it has then: of several gateways that are asked
    /// for one run, exactly one finds its own.
    pub(super) async fn create_request(
        &self,
        request: &ArchiveRunRequest,
    ) -> Result<ArchiveRunRequest, ArchiveRunsError> {
        self.create(&request.id, REQUEST, json(request)).await
    }

    /// Keeps all documents of the run for as long again from now on, so that one that waits or stands still for weeks is known, and
    /// known to stand still; and the request again, where the state has lost it. False where another gateway was asked for the
    /// run meanwhile and has begun it: it is that one's.
    pub(super) async fn keep(&self, request: &ArchiveRunRequest) -> Result<bool, StateError> {
        let (run, document) = (run(&request.id), json(request));
        let known = self.0.create_document(&run, REQUEST, document).await?;
        // One that cannot be read is told of where the run is asked for.
        let known = serde_json::from_str::<ArchiveRunRequest>(&known).ok();
        Ok(known.is_none_or(|known| known.attempt == request.attempt))
    }

    pub(super) async fn request(
        &self,
        id: &str,
    ) -> Result<Option<ArchiveRunRequest>, ArchiveRunsError> {
        self.get(id, REQUEST).await
    }

    /// `progress` is the JSON of a [`RunProgress`].
    pub(super) async fn put_progress(&self, id: &str, progress: String) -> Result<(), StateError> {
        self.put(id, PROGRESS, progress).await
    }

    pub(super) async fn progress(&self, id: &str) -> Result<Option<RunProgress>, ArchiveRunsError> {
        self.get(id, PROGRESS).await
    }

    /// Ends the run, once; returns the end that it has then.
    pub(super) async fn create_end(
        &self,
        id: &str,
        end: &ArchiveRunEnd,
    ) -> Result<ArchiveRunEnd, ArchiveRunsError> {
        self.create(id, END, json(end)).await
    }

    pub(super) async fn end(&self, id: &str) -> Result<Option<ArchiveRunEnd>, ArchiveRunsError> {
        self.get(id, END).await
    }

    /// Tells the gateway whose run it is to stop it.
    pub(super) async fn cancel(&self, id: &str) -> Result<(), StateError> {
        self.put(id, CANCEL, "true".to_owned()).await
    }

    pub(super) async fn is_cancelled(&self, id: &str) -> Result<bool, StateError> {
        Ok(self.0.document(&run(id), CANCEL).await?.is_some())
    }

    /// Tells the gateway whose run it is to let it stand still, or to go on.
    pub(super) async fn pause(&self, id: &str, paused: bool) -> Result<(), StateError> {
        self.put(id, PAUSED, paused.to_string()).await
    }

    pub(super) async fn is_paused(&self, id: &str) -> Result<bool, StateError> {
        let paused = self.0.document(&run(id), PAUSED).await?;
        Ok(paused.as_deref() == Some("true"))
    }

    async fn put(&self, id: &str, name: &str, document: String) -> Result<(), StateError> {
        self.0.put_document(&run(id), name, document).await
    }

    async fn create<T: for<'a> Deserialize<'a>>(
        &self,
        id: &str,
        name: &'static str,
        document: String,
    ) -> Result<T, ArchiveRunsError> {
        let text = self.0.create_document(&run(id), name, document).await?;
        parse(id, name, &text)
    }

    async fn get<T: for<'a> Deserialize<'a>>(
        &self,
        id: &str,
        name: &'static str,
    ) -> Result<Option<T>, ArchiveRunsError> {
        let text = self.0.document(&run(id), name).await?;
        text.map(|text| parse(id, name, &text)).transpose()
    }
}

/// Asks for a document until it is known: a state that does not answer may do so later, and what cannot be read stays so.
///
/// # Errors
/// [`ArchiveRunsError::Unreadable`], and [`ArchiveRunsError::Stopped`].
pub(super) async fn until_known<T, F>(
    retry: &RetryUntilShutdown,
    mut ask: impl FnMut() -> F,
) -> Result<T, ArchiveRunsError>
where
    F: Future<Output = Result<T, ArchiveRunsError>>,
{
    let attempt = || {
        let asked = ask();
        async move {
            asked.await.map_err(|error| match error {
                ArchiveRunsError::State(error) => AttemptError::Unavailable(error),
                error => AttemptError::Fatal(error),
            })
        }
    };
    retry.until_settled(attempt).await
}

fn parse<T: for<'a> Deserialize<'a>>(
    id: &str,
    name: &'static str,
    text: &str,
) -> Result<T, ArchiveRunsError> {
    serde_json::from_str(text).map_err(|reason| ArchiveRunsError::Unreadable {
        name,
        id: id.to_owned(),
        reason,
    })
}

pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("documents have string keys only")
}

fn run(id: &str) -> RunId {
    RunId(format!("batch-{id}"))
}

#[cfg(test)]
mod tests {
    use radialog_runtime::state::memory::MemoryState;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_document_that_cannot_be_read_is_told_once_and_not_asked_for_again() {
        let documents = ArchiveRunDocuments(Arc::new(MemoryState::default()));
        let later =
            r#"{"status": "a status of a later release", "error": null, "parts": [1, 1, 1]}"#;
        documents.put("one", END, later.to_owned()).await.unwrap();
        let retry = RetryUntilShutdown::new(CancellationToken::new());
        let mut asked = 0;
        let end = until_known(&retry, || {
            asked += 1;
            documents.end("one")
        });
        let error = end.await.unwrap_err();
        assert!(
            matches!(error, ArchiveRunsError::Unreadable { name: END, .. }),
            "{error}"
        );
        assert_eq!(asked, 1);
    }
}
