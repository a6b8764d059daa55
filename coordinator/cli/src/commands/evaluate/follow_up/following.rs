//! The records of a run that followed from another one, beside those of the first.

use radialog_coordinator::run::FinishedRun;
use radialog_coordinator::run::output::OrderedRecords;
use radialog_schemas::StudyRecord;

/// One pass over the records of a run, which stand in the order in which its dialogs followed from another run.
pub(in crate::commands::evaluate) struct Following {
    records: OrderedRecords,
    next: Option<StudyRecord>,
}

impl Following {
    pub(in crate::commands::evaluate) async fn open(run: &FinishedRun) -> anyhow::Result<Self> {
        let mut records = run.records().await?;
        let next = records.next().await?;
        Ok(Self { records, next })
    }

    /// The record of this id, where it is the next one.
    pub(in crate::commands::evaluate) async fn take(
        &mut self,
        id: &str,
    ) -> anyhow::Result<Option<StudyRecord>> {
        if self
            .next
            .as_ref()
            .is_none_or(|next| next.study.as_str() != id)
        {
            return Ok(None);
        }
        let next = self.records.next().await?;
        Ok(std::mem::replace(&mut self.next, next))
    }
}
