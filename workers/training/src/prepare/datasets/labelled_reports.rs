//! The common table: reports with findings, of one split, joined with the labels.

use std::path::Path;

use radialog_models::findings::{NO_FINDINGS_TEXT, TextRule};
use radialog_schemas::Finding;
use radialog_schemas::table::split_name;

use crate::error::TrainingError;
use crate::prepare::sections::strip;
use crate::prepare::tables::finding_labels::{FindingLabels, positives};
use crate::prepare::tables::label_table::{LabelKey, LabelTable};
use crate::prepare::tables::report_table::read_report_table;
use crate::prepare::tables::sectioned_reports::SectionedReader;
use crate::prepare::tables::split_table::SplitTable;

/// One image with the findings section of its report and its labels: what all data sets are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledReport {
    /// Identifies the image.
    pub dicom_id: String,
    /// `sNNNNNNNN.txt`.
    pub note_file: String,
    /// The findings section without newlines. Lines of MIMIC-CXR start with a blank, so that words stay apart.
    pub findings: String,
    /// The patient, where the table has a column of it.
    pub patient: Option<String>,
    /// Its labels, in the published order.
    pub labels: FindingLabels,
}

impl LabelledReport {
    /// The text behind "Predicted Findings:" in a request for a report: the positives, or that there are none.
    pub fn report_findings(&self) -> String {
        report_findings(&positives(&self.labels))
    }

    /// The positives, as the multi-turn tasks have them: nothing at all where there are none. The original meant to spell
    /// that out and never does; the published weights have seen it so.
    pub fn positive_text(&self) -> String {
        TextRule::Demo.text(&positives(&self.labels))
    }

    /// The image and what the model is to write about it.
    pub(crate) fn report(&self) -> (&str, &str) {
        (&self.dicom_id, self.target())
    }

    /// Returns what the model is to write about the image.
    pub fn target(&self) -> &str {
        strip(&self.findings)
    }
}

/// Findings as a request for a report names them.
pub(crate) fn report_findings(findings: &[Finding]) -> String {
    match TextRule::Demo.text(findings) {
        text if text.is_empty() => NO_FINDINGS_TEXT.to_owned(),
        text => text,
    }
}

/// The rows that a data set is made of, and how many there were besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectedReports {
    /// The rows of the split that have findings.
    pub samples: Vec<LabelledReport>,
    /// All rows of the table.
    pub rows: u64,
    /// Rows of other splits.
    pub other_splits: u64,
    /// Rows that the split table does not have.
    pub without_split: u64,
    /// Rows of the split without a findings section.
    pub without_findings: u64,
    /// Rows of the split, with findings, that the table of labels does not have; all their labels are blank.
    pub without_labels: u64,
}

impl SelectedReports {
    /// How many rows there are and why others were left out, in words.
    pub fn words(&self) -> String {
        let reasons = [
            (self.other_splits, "of another split"),
            (self.without_split, "without a split"),
            (self.without_findings, "without a findings section"),
        ];
        let left_out = reasons.iter().filter(|(count, _)| *count > 0);
        let mut words: Vec<String> = left_out
            .map(|(count, reason)| format!("{count} {reason} left out"))
            .collect();
        if self.without_labels > 0 {
            words.push(format!("{} without labels", self.without_labels));
        }
        let of = format!("{} of {} rows are used", self.samples.len(), self.rows);
        match words.is_empty() {
            true => of,
            false => format!("{of}: {}", words.join(", ")),
        }
    }

    /// Refuses a selection of nothing, with its counts.
    fn checked(self, table: &Path, split: &str) -> Result<Self, TrainingError> {
        if self.samples.is_empty() {
            let (shown, words) = (table.display(), self.words());
            return Err(TrainingError::Empty(format!(
                "'{shown}' has no report with findings{split}: {words}"
            )));
        }
        Ok(self)
    }
}

/// The rows of a report table or of a table of pairs that have findings and are of this side; the study stands for the
/// image.
///
/// # Errors
/// A table that cannot be read, or no row left.
pub fn report_table_samples(table: &Path, split: &str) -> Result<SelectedReports, TrainingError> {
    let split = split_name(split);
    let mut selected = SelectedReports::default();
    for row in read_report_table(table)? {
        selected.rows += 1;
        if row.split != split {
            selected.other_splits += 1;
        } else if strip(&row.findings).is_empty() {
            selected.without_findings += 1;
        } else {
            selected.samples.push(LabelledReport {
                note_file: format!("{}.txt", row.study),
                dicom_id: row.study,
                findings: row.findings,
                patient: row.patient,
                labels: row.labels,
            });
        }
    }
    selected.checked(table, &format!(" of the split '{split}'"))
}

/// The rows of a sectioned CSV that have findings and lie in `split`, with their labels. Without a split table all rows
/// count.
///
/// # Errors
/// A file that cannot be read, or no row left.
pub fn samples(
    sectioned: &Path,
    split: Option<(&SplitTable, &str)>,
    labels: &LabelTable,
) -> Result<SelectedReports, TrainingError> {
    let mut selected = SelectedReports::default();
    for row in SectionedReader::open(sectioned)? {
        let row = row?;
        selected.rows += 1;
        if let Some((table, split)) = split {
            match table.get(&row.dicom_id) {
                None => {
                    selected.without_split += 1;
                    continue;
                }
                Some(of) if of != split_name(split) => {
                    selected.other_splits += 1;
                    continue;
                }
                Some(_) => {}
            }
        }
        if strip(&row.report.findings).is_empty() {
            selected.without_findings += 1;
            continue;
        }
        let key = LabelKey {
            dicom: &row.dicom_id,
            study: &row.study,
        };
        selected.without_labels += u64::from(!labels.has(key));
        selected.samples.push(LabelledReport {
            labels: labels.get(key),
            findings: row.report.findings.replace('\n', ""),
            dicom_id: row.dicom_id,
            note_file: row.note_file,
            // The original's samples do not name it, and its files are compared byte by byte.
            patient: None,
        });
    }
    let of = split.map_or_else(String::new, |(_, split)| format!(" of the split '{split}'"));
    selected.checked(sectioned, &of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_left_out_are_counted_by_their_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports.csv");
        let names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
        let row = |study: &str, split: &str, text: &str| {
            format!("{study},p{study},{split},{text}{}\n", ",".repeat(14))
        };
        let rows = [
            row("1", "Val", "Clear."),
            row("2", "validate", " "),
            row("3", "train", "x"),
        ];
        let header = format!("study_id,patient_id,split,findings,{}\n", names.join(","));
        std::fs::write(&path, header + &rows.concat()).unwrap();
        let selected = report_table_samples(&path, "val").unwrap();
        let words = "1 of 3 rows are used: 1 of another split left out, 1 without a findings section left out";
        assert_eq!(selected.words(), words);
        assert_eq!(selected.samples[0].patient.as_deref(), Some("p1"));
        let error = report_table_samples(&path, "test").unwrap_err().to_string();
        assert!(error.contains("0 of 3 rows"), "{error}");
    }
}
