//! A run that goes on from a finished one: dialogs about its images, made of its records one at a time, in the order of its
//! archive. Memory grows with neither.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use radialog_schemas::{DialogPrompt, ErrorCode, ObjectKey, RunSpec, Stage, StudyRecord};

use super::output::OrderedRecords;
use super::pipeline::OutputKeys;
use crate::CoordinatorError;
use crate::archive::{Archive, EntryProblem, ImageSource, StudyEntries, StudyEntry};

/// A run that has come to its end.
#[derive(Clone)]
pub struct FinishedRun {
    /// What it went through.
    pub archive: Arc<dyn Archive>,
    /// Its output directory.
    pub folder: PathBuf,
    /// What it did.
    pub spec: RunSpec,
    /// The studies that count, from the first one on; none: all.
    pub limit: Option<u64>,
}

/// The dialogs that follow from a record, each with its id; none where there is nothing to ask.
pub type AskOn = dyn Fn(&StudyRecord) -> Vec<(String, DialogPrompt)> + Send + Sync;

/// An archive of the dialogs that follow from a run.
pub struct FollowUps {
    name: String,
    run: FinishedRun,
    ask: Arc<AskOn>,
}

struct FollowUpEntries {
    name: String,
    records: OrderedRecords,
    ask: Arc<AskOn>,
    ready: VecDeque<(String, DialogPrompt)>,
}

impl FinishedRun {
    /// Starts a pass over its records.
    ///
    /// # Errors
    /// As [`OrderedRecords::open`].
    pub async fn records(&self) -> Result<OrderedRecords, CoordinatorError> {
        let records = OrderedRecords::open(&*self.archive, &self.folder).await?;
        Ok(records.limited(self.limit))
    }

    /// The key of the image tokens that the run made; none of a study whose image could not be read.
    pub fn embedding(&self, record: &StudyRecord) -> Option<ObjectKey> {
        if let Some(given) = record.given.get(&Stage::Embedding) {
            return Some(given.object.clone());
        }
        let keys = OutputKeys::of(&self.spec, record.input.as_ref()?, None);
        Some(keys.output(Stage::Embedding).clone())
    }
}

impl FollowUps {
    /// Makes an archive of what `ask` makes of the records of `run`. `name` must say what is asked: a run is only resumed over the
    /// same archive, and the id of `run` is added.
    pub fn new(name: &str, run: FinishedRun, ask: Arc<AskOn>) -> Self {
        Self {
            name: format!("{name} on run {}", run.spec.run),
            run,
            ask,
        }
    }
}

#[async_trait]
impl Archive for FollowUps {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError> {
        Ok(Box::new(FollowUpEntries {
            name: self.name.clone(),
            records: self.run.records().await?,
            ask: self.ask.clone(),
            ready: VecDeque::new(),
        }))
    }
}

#[async_trait]
impl StudyEntries for FollowUpEntries {
    async fn next(&mut self) -> Option<Result<StudyEntry, EntryProblem>> {
        loop {
            if let Some((id, dialog)) = self.ready.pop_front() {
                let content = serde_json::to_vec(&dialog).expect("dialogs have string keys only");
                let input = ImageSource::Inline(Bytes::from(content));
                return Some(Ok(StudyEntry::new(&id, id.as_str(), Ok(input))));
            }
            match self.records.next().await {
                Ok(Some(record)) => self.ready.extend((self.ask)(&record)),
                Ok(None) => return None,
                Err(error) => {
                    let code = ErrorCode::ArchiveUnreadable;
                    return Some(Err(EntryProblem::new(self.name.as_str(), code, error)));
                }
            }
        }
    }
}
