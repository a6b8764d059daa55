//! The tables that an evaluation reads: reports, and images with labels. Only rows of the split that is asked for leave
//! this file.

use std::path::{Path, PathBuf};

use radialog_schemas::Label;

use super::agreement::{CLASSES, Flags, present};
use crate::error::TrainingError;
use crate::prepare::{FindingLabels, ReportRow, TableFile, read_report_table};
use crate::recipe::ImageTable;

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LabelledTestImage {
    /// Images of one patient are drawn together.
    pub(super) patient: String,
    pub(super) path: PathBuf,
    /// The table that it is from.
    pub(super) table: usize,
    pub(super) labels: FindingLabels,
}

impl LabelledTestImage {
    /// What is known: a blank cell is not.
    pub(super) fn truth(&self) -> [Option<bool>; CLASSES] {
        self.labels
            .map(|label| (label != Label::Blank).then_some(label == Label::Positive))
    }

    /// The file's name.
    pub(super) fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

/// What a report says is there, as its table has it.
pub(super) fn stated(report: &ReportRow) -> Flags {
    present(&report.labels)
}

/// The reports of a split that have a findings section, in the order of the table.
///
/// # Errors
/// A table that is none, or no report left.
pub(super) fn reports(path: &Path, split: &str) -> Result<Vec<ReportRow>, TrainingError> {
    let mut reports = read_report_table(path)?;
    reports.retain(|report| report.split == split && !report.findings.trim().is_empty());
    if reports.is_empty() {
        let reason = format!(
            "'{}' has no report with findings of the split '{split}'",
            path.display()
        );
        return Err(TrainingError::Empty(reason));
    }
    Ok(reports)
}

/// The images of a split, in the order of the tables. Where a table has no column `patient_id`, each image is another
/// patient.
///
/// # Errors
/// A table without the columns `image`, `split` and the 14 findings, or without an image of the split.
pub(super) fn images(
    tables: &[ImageTable],
    split: &str,
) -> Result<Vec<LabelledTestImage>, TrainingError> {
    let mut images = Vec::new();
    for (
        number,
        ImageTable {
            labels: path,
            images: folder,
        },
    ) in tables.iter().enumerate()
    {
        let before = images.len();
        let mut table = TableFile::open(path)?;
        let (image, side, columns) = (
            table.column("image")?,
            table.column("split")?,
            table.findings()?,
        );
        let patient = table.optional("patient_id").unwrap_or(image);
        while let Some(row) = table.next_row()? {
            let cell = |column: usize| row.cell(column).unwrap_or_default();
            if cell(side) == split {
                let labels = table.labels(&row, &columns)?;
                let path = folder.join(cell(image));
                images.push(LabelledTestImage {
                    patient: cell(patient).to_owned(),
                    path,
                    table: number,
                    labels,
                });
            }
        }
        if images.len() == before {
            let reason = format!("'{}' has no image of the split '{split}'", path.display());
            return Err(TrainingError::Empty(reason));
        }
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use radialog_schemas::Finding;

    use super::*;

    #[test]
    fn only_reports_with_findings_of_the_split_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.csv");
        let names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
        let rows = [
            ("a", "test", "Clear."),
            ("b", "train", "Clear."),
            ("c", "test", ""),
        ];
        let rows = rows
            .map(|(id, split, findings)| format!("{id},{split},{findings},1{}\n", ",".repeat(13)));
        std::fs::write(
            &path,
            format!(
                "study_id,split,findings,{}\n{}",
                names.join(","),
                rows.concat()
            ),
        )
        .unwrap();
        let ids: Vec<String> = reports(&path, "test")
            .unwrap()
            .into_iter()
            .map(|report| report.study)
            .collect();
        assert_eq!(ids, ["a"]);
        assert!(
            reports(&path, "validate")
                .unwrap_err()
                .to_string()
                .contains("split 'validate'")
        );
    }
}
