//! Which of the studies are scored.

use radialog_schemas::{Finding, Label};

use super::matching::Corpus;
use crate::error::TrainingError;
use crate::prepare::FindingLabels;

impl Corpus {
    /// Keeps the first `limit` studies.
    pub fn limit(&mut self, limit: usize) {
        self.not_selected += self.studies.len().saturating_sub(limit) as u64;
        self.studies.truncate(limit);
    }

    /// Keeps every study with a finding and, in order, about a thirteenth as many without, as the original's test program
    /// does for `--strat_eval`: without are those that are labelled "No Finding" or have no positive label.
    ///
    /// # Errors
    /// A study has no reference labels.
    pub fn stratify(&mut self) -> Result<(), TrainingError> {
        let mut with = 0_u64;
        for study in &self.studies {
            let Some(labels) = &study.reference_labels else {
                return Err(TrainingError::Empty(format!(
                    "a stratified selection needs labels of the references, and '{}' has none: give a table of labels, or a bundle \
                     that labels them (--bundle)",
                    study.id
                )));
            };
            with += u64::from(has_finding(labels));
        }
        // int((F * 14 / 13) / 14) in floating point, as there.
        let mut without = ((with as f64 * 14.0 / 13.0) / 14.0) as u64;
        let before = self.studies.len();
        self.studies.retain(|study| {
            if study.reference_labels.as_ref().is_some_and(has_finding) {
                return true;
            }
            let kept = without > 0;
            without = without.saturating_sub(1);
            kept
        });
        self.not_selected += (before - self.studies.len()) as u64;
        Ok(())
    }
}

fn has_finding(labels: &FindingLabels) -> bool {
    labels[Finding::NoFinding as usize] != Label::Positive && labels.contains(&Label::Positive)
}
