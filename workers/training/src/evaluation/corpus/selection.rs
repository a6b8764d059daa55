//! Which of the studies are scored.

use radialog_schemas::{Finding, Label};

use super::matching::{Corpus, MatchedStudy};
use crate::error::TrainingError;
use crate::evaluation::stored_rows::temporary;
use crate::prepare::FindingLabels;

impl Corpus {
    /// Keeps the first `limit` studies.
    ///
    /// # Errors
    /// They cannot be stored.
    pub fn limit(&mut self, limit: usize) -> Result<(), TrainingError> {
        self.not_selected += self.studies.len().saturating_sub(limit) as u64;
        self.studies.truncate(limit).map_err(temporary)
    }

    /// Keeps every study with a finding and, in order, about a thirteenth as many without, as the original's test program
    /// does for `--strat_eval`: without are those that are labelled "No Finding" or have no positive label. A study without labels is
    /// left out, and named.
    ///
    /// # Errors
    /// No study has labels.
    pub fn stratify(&mut self) -> Result<(), TrainingError> {
        let labels = |study: &MatchedStudy| study.reference_labels.as_ref().map(has_finding);
        let (mut with, mut labelled, mut first) = (0, false, None);
        for study in self.studies.iter() {
            let study = study.map_err(temporary)?;
            labelled |= labels(&study).is_some();
            with += u64::from(labels(&study) == Some(true));
            first.get_or_insert(study.id);
        }
        if let (Some(first), false) = (first, labelled) {
            return Err(TrainingError::Empty(format!(
                "a stratified selection needs labels of the references, and '{first}' has none: give a table of labels, or a bundle \
                 that labels them (--bundle)"
            )));
        }
        let mut without = kept_without(with);
        let selected = self.select(|study| {
            let has_finding = labels(study)?;
            let wanted = has_finding || without > 0;
            without -= u64::from(wanted && !has_finding);
            Some(wanted)
        });
        selected.map_err(temporary)
    }
}

/// How many studies without a finding a stratified selection keeps beside so many with one: int((F * 14 / 13) / 14) in floating
/// point, as there.
pub(crate) fn kept_without(with: u64) -> u64 {
    ((with as f64 * 14.0 / 13.0) / 14.0) as u64
}

fn has_finding(labels: &FindingLabels) -> bool {
    labels[Finding::NoFinding as usize] != Label::Positive && labels.contains(&Label::Positive)
}
