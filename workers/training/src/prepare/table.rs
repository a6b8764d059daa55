//! The common table: reports with findings, of one split, joined with the labels.

use std::collections::HashMap;
use std::path::Path;

use radialog_models::findings::{NO_FINDINGS_TEXT, TextRule};
use radialog_schemas::Finding;

use super::labels::{LabelTable, LabelValue, positives};
use super::report_table::{ReportRow, read_report_table};
use super::sectioned::SectionedReader;
use crate::error::TrainingError;

/// One image with its findings section and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Identifies the image.
    pub dicom_id: String,
    /// `sNNNNNNNN.txt`.
    pub note_file: String,
    /// The findings section without newlines. Lines of MIMIC-CXR start with a blank, so that words stay apart.
    pub findings: String,
    /// In the published order.
    pub labels: LabelValue,
}

impl Sample {
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
    pub(super) fn report(&self) -> (&str, &str) {
        (&self.dicom_id, self.target())
    }

    /// What the model is to write.
    pub fn target(&self) -> &str {
        crate::sections::strip(&self.findings)
    }
}

/// Findings as a request for a report names them.
pub(super) fn report_findings(findings: &[Finding]) -> String {
    match TextRule::Demo.text(findings) {
        text if text.is_empty() => NO_FINDINGS_TEXT.to_owned(),
        text => text,
    }
}

/// Which split each image belongs to (`mimic-cxr-2.0.0-split.csv`).
#[derive(Clone, Debug, Default)]
pub struct SplitTable {
    images: HashMap<String, String>,
}

impl SplitTable {
    /// Reads a CSV with the columns `dicom_id` and `split`.
    ///
    /// # Errors
    /// No such file or columns.
    pub fn read(path: &Path) -> Result<Self, TrainingError> {
        let mut reader = csv::Reader::from_path(path).map_err(TrainingError::content(path))?;
        let header = reader
            .headers()
            .map_err(TrainingError::content(path))?
            .clone();
        let column = |name: &str| {
            let found = header.iter().position(|found| found == name);
            found.ok_or_else(|| {
                TrainingError::line(
                    path,
                    1,
                    format!("no column '{name}'; unzip the published table"),
                )
            })
        };
        let (dicom, split) = (column("dicom_id")?, column("split")?);
        let mut images = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(TrainingError::content(path))?;
            let cell = |column: usize| record.get(column).unwrap_or_default().to_owned();
            images.insert(cell(dicom), cell(split));
        }
        Ok(Self { images })
    }

    /// The split of an image.
    pub fn get(&self, dicom: &str) -> Option<&str> {
        self.images.get(dicom).map(String::as_str)
    }
}

/// The rows of a report table or of a table of pairs that have findings and are of this side; the study stands for the
/// image.
///
/// # Errors
/// A table that cannot be read, or no row left.
pub fn report_table_samples(table: &Path, split: &str) -> Result<Vec<Sample>, TrainingError> {
    let rows = read_report_table(table)?
        .into_iter()
        .filter(|row| row.split == split && !row.findings.is_empty());
    let sample = |row: ReportRow| Sample {
        note_file: format!("{}.txt", row.study),
        dicom_id: row.study,
        findings: row.findings,
        labels: row.labels,
    };
    let samples: Vec<Sample> = rows.map(sample).collect();
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
) -> Result<Vec<Sample>, TrainingError> {
    let mut samples = Vec::new();
    for row in SectionedReader::open(sectioned)? {
        let row = row?;
        let wanted = split.is_none_or(|(table, split)| table.get(&row.dicom_id) == Some(split));
        if row.report.findings.is_empty() || !wanted {
            continue;
        }
        samples.push(Sample {
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
