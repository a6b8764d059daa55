//! What all gateways know of a run: its documents in the shared state.

use std::sync::Arc;

use radialog_runtime::state::{State, StateError};
use radialog_schemas::RunId;
use serde::{Deserialize, Serialize};

use super::view::{ArchiveRunEnd, ArchiveRunRequest};
use crate::run::progress::RunProgress;

const REQUEST: &str = "batch";
const PROGRESS: &str = "batch-progress";
const END: &str = "batch-end";
const CANCEL: &str = "batch-cancel";
const PAUSED: &str = "batch-paused";

/// The documents of all runs over archives.
pub(super) struct ArchiveRunDocuments(pub(super) Arc<dyn State>);

impl ArchiveRunDocuments {
    /// Keeps a request where the run has none, and returns the one that it has then: of several gateways that are asked
    /// for one run, exactly one finds its own. All documents of the run are kept for as long again from then on, so that one that
    /// waits or stands still for weeks is known, and known to stand still.
    pub(super) async fn create_request(
        &self,
        request: &ArchiveRunRequest,
    ) -> Result<ArchiveRunRequest, StateError> {
        self.create(&request.id, REQUEST, json(request)).await
    }

    pub(super) async fn request(&self, id: &str) -> Result<Option<ArchiveRunRequest>, StateError> {
        self.get(id, REQUEST).await
    }

    /// `progress` is the JSON of a [`RunProgress`].
    pub(super) async fn put_progress(&self, id: &str, progress: String) -> Result<(), StateError> {
        self.put(id, PROGRESS, progress).await
    }

    pub(super) async fn progress(&self, id: &str) -> Result<Option<RunProgress>, StateError> {
        self.get(id, PROGRESS).await
    }

    /// Ends the run, once; returns the end that it has then.
    pub(super) async fn create_end(
        &self,
        id: &str,
        end: &ArchiveRunEnd,
    ) -> Result<ArchiveRunEnd, StateError> {
        self.create(id, END, json(end)).await
    }

    pub(super) async fn end(&self, id: &str) -> Result<Option<ArchiveRunEnd>, StateError> {
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
        Ok(self.get(id, PAUSED).await? == Some(true))
    }

    async fn put(&self, id: &str, name: &str, document: String) -> Result<(), StateError> {
        self.0.put_document(&run(id), name, document).await
    }

    async fn create<T: for<'a> Deserialize<'a>>(
        &self,
        id: &str,
        name: &str,
        document: String,
    ) -> Result<T, StateError> {
        let text = self.0.create_document(&run(id), name, document).await?;
        parse(id, name, &text)
    }

    async fn get<T: for<'a> Deserialize<'a>>(
        &self,
        id: &str,
        name: &str,
    ) -> Result<Option<T>, StateError> {
        let text = self.0.document(&run(id), name).await?;
        text.map(|text| parse(id, name, &text)).transpose()
    }
}

fn parse<T: for<'a> Deserialize<'a>>(id: &str, name: &str, text: &str) -> Result<T, StateError> {
    serde_json::from_str(text).map_err(|error| {
        StateError(format!(
            "document '{name}' of run '{id}' is damaged: {error}"
        ))
    })
}

pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("documents have string keys only")
}

fn run(id: &str) -> RunId {
    RunId(format!("batch-{id}"))
}
