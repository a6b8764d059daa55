//! The common table: reports with findings, of one split, joined with the labels.

use std::path::Path;

use radialog_models::findings::{NO_FINDINGS_TEXT, TextRule};
use radialog_schemas::Finding;

use crate::error::TrainingError;
use crate::prepare::tables::finding_labels::{FindingLabels, positives};
use crate::prepare::tables::label_table::LabelTable;
use crate::prepare::tables::report_table::{ReportRow, read_report_table};
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
        crate::prepare::sections::strip(&self.findings)
    }
}

/// Findings as a request for a report names them.
pub(crate) fn report_findings(findings: &[Finding]) -> String {
    match TextRule::Demo.text(findings) {
        text if text.is_empty() => NO_FINDINGS_TEXT.to_owned(),
        text => text,
    }
}

/// The rows of a report table or of a table of pairs that have findings and are of this side; the study stands for the
/// image.
///
/// # Errors
/// A table that cannot be read, or no row left.
pub fn report_table_samples(
    table: &Path,
    split: &str,
) -> Result<Vec<LabelledReport>, TrainingError> {
    let rows = read_report_table(table)?
        .into_iter()
        .filter(|row| row.split == split && !row.findings.is_empty());
    let sample = |row: ReportRow| LabelledReport {
        note_file: format!("{}.txt", row.study),
        dicom_id: row.study,
        findings: row.findings,
        labels: row.labels,
    };
    let samples: Vec<LabelledReport> = rows.map(sample).collect();
    if samples.is_empty() {
        let shown = table.display();
        return Err(TrainingError::Empty(format!(
            "'{shown}' has no report with findings of the split '{split}'"
        )));
    }
    Ok(samples)
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
) -> Result<Vec<LabelledReport>, TrainingError> {
    let mut samples = Vec::new();
    for row in SectionedReader::open(sectioned)? {
        let row = row?;
        let wanted = split.is_none_or(|(table, split)| table.get(&row.dicom_id) == Some(split));
        if row.report.findings.is_empty() || !wanted {
            continue;
        }
        samples.push(LabelledReport {
            labels: labels.get(&row.dicom_id),
            findings: row.report.findings.replace('\n', ""),
            dicom_id: row.dicom_id,
            note_file: row.note_file,
        });
    }
    if samples.is_empty() {
        let of = split.map_or_else(String::new, |(_, split)| format!(" of the split '{split}'"));
        return Err(TrainingError::Empty(format!(
            "'{}' has no report with findings{of}",
            sectioned.display()
        )));
    }
    Ok(samples)
}
