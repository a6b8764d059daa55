//! The studies of one split of an archive.

use std::sync::Arc;

use async_trait::async_trait;
use radialog_schemas::table::split_name;

use super::entries::{Archive, EntryProblem, StudyEntries, StudyEntry};
use crate::CoordinatorError;

/// An archive without the studies of other splits, and without those whose split it does not say.
pub struct OneSplit {
    archive: Arc<dyn Archive>,
    split: String,
}

struct OneSplitEntries {
    entries: Box<dyn StudyEntries>,
    split: String,
}

impl OneSplit {
    /// The studies of `split`, e.g. `test`.
    pub fn of(archive: Arc<dyn Archive>, split: &str) -> Self {
        Self {
            archive,
            split: split.to_owned(),
        }
    }
}

#[async_trait]
impl Archive for OneSplit {
    fn name(&self) -> String {
        format!("{} ({})", self.archive.name(), self.split)
    }

    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError> {
        Ok(Box::new(OneSplitEntries {
            entries: self.archive.entries().await?,
            split: self.split.clone(),
        }))
    }
}

#[async_trait]
impl StudyEntries for OneSplitEntries {
    async fn next(&mut self) -> Option<Result<StudyEntry, EntryProblem>> {
        loop {
            match self.entries.next().await? {
                Ok(entry)
                    if entry.split.as_deref().map(split_name) != Some(split_name(&self.split)) => {}
                entry => return Some(entry),
            }
        }
    }
}
