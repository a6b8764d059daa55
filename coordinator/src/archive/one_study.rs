//! An archive of a single study.

use async_trait::async_trait;

use super::entries::{Archive, EntryProblem, StudyEntries, StudyEntry};
use crate::CoordinatorError;

/// A study that is at hand.
pub struct OneStudy(pub StudyEntry);

struct OneStudyEntries(Option<StudyEntry>);

#[async_trait]
impl Archive for OneStudy {
    fn name(&self) -> String {
        self.0.file.clone()
    }

    async fn entries(&self) -> Result<Box<dyn StudyEntries>, CoordinatorError> {
        Ok(Box::new(OneStudyEntries(Some(self.0.clone()))))
    }
}

#[async_trait]
impl StudyEntries for OneStudyEntries {
    async fn next(&mut self) -> Option<Result<StudyEntry, EntryProblem>> {
        self.0.take().map(Ok)
    }
}
