//! Sentences of real reports that stand between synthetic ones.

use std::collections::HashSet;
use std::path::PathBuf;

use radialog_schemas::{Finding, Label};

use super::{Sentence, compared};
use crate::error::TrainingError;
use crate::prepare::tables::report_table::{ReportRow, read_report_table};
use crate::prepare::weak_labels::{WeakLabeler, sentences};

/// Stands for words that a publisher removed.
const REMOVED: &str = "___";

/// Sentences whose labels the weak rule tells, as far as their reports' labels agree.
#[derive(Default)]
pub(super) struct SentencePool(Vec<Sentence>);

impl SentencePool {
    /// Reads the `train` rows of report tables. A sentence is taken where all that it states or doubts is so labelled in its
    /// report, and where no word of it is removed. One that says nothing of the 14 findings, and stands in no report without
    /// findings, may say something else that is abnormal. Each is taken once, however many reports have it.
    pub(super) fn read(tables: &[PathBuf]) -> Result<Self, TrainingError> {
        let rule = WeakLabeler::own()?;
        let mut rows = Vec::new();
        for path in tables {
            rows.extend(read_report_table(path)?);
        }
        rows.retain(|row| row.split == "train");
        let is_normal =
            |row: &&ReportRow| row.labels[Finding::NoFinding as usize] == Label::Positive;
        let normal: HashSet<String> = rows
            .iter()
            .filter(is_normal)
            .flat_map(|row| sentences(&row.findings))
            .map(compared)
            .collect();
        let (mut pool, mut known) = (Vec::new(), HashSet::new());
        for row in &rows {
            let whole = sentences(&row.findings).into_iter();
            for text in whole.filter(|text| text.ends_with('.') && !text.contains(REMOVED)) {
                let says = rule.sentence(text);
                let is_agreed = says.iter().all(|(finding, label)| {
                    *label == Label::Negative || row.labels[*finding as usize] == *label
                });
                if is_agreed && known.insert(compared(text)) {
                    pool.push(Sentence {
                        is_abnormal: says.is_empty() && !normal.contains(&compared(text)),
                        text: text.to_owned(),
                        says,
                    });
                }
            }
        }
        Ok(Self(pool))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn sentences(&self) -> &[Sentence] {
        &self.0
    }
}
