//! Which of the studies are scored.

use radialog_schemas::{Finding, Label};

use super::matching::{Corpus, MatchedStudy};
use crate::error::TrainingError;
use crate::prepare::FindingLabels;

impl Corpus {
    /// Keeps the first `limit` studies.
    pub fn limit(&mut self, limit: usize) {
        self.not_selected += self.studies.len().saturating_sub(limit) as u64;
        self.studies.truncate(limit);
    }

    /// Keeps every study with a finding and, in order, about a thirteenth as many without, as the original's test program
    /// does for `--strat_eval`: without are those that are labelled "No Finding" or have no positive label. A study without labels is
    /// left out, and named.
    ///
    /// # Errors
    /// No study has labels.
    pub fn stratify(&mut self) -> Result<(), TrainingError> {
        let labels = |study: &MatchedStudy| study.reference_labels.as_ref().map(has_finding);
        let first = self.studies.first();
        if let Some(first) = first.filter(|_| self.studies.iter().all(|s| labels(s).is_none())) {
            return Err(TrainingError::Empty(format!(
                "a stratified selection needs labels of the references, and '{}' has none: give a table of labels, or a bundle \
                 that labels them (--bundle)",
                first.id
            )));
        }
        let with = self
            .studies
            .iter()
            .filter(|s| labels(s) == Some(true))
            .count();
        let mut without = kept_without(with as u64);
        for study in std::mem::take(&mut self.studies) {
            match labels(&study) {
                None => self.name_unlabelled(&study),
                Some(false) if without == 0 => self.not_selected += 1,
                Some(has_finding) => {
                    without -= u64::from(!has_finding);
                    self.studies.push(study);
                }
            }
        }
        Ok(())
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
