//! The tables that an evaluation reads: reports, and images with labels. Only rows of the split that is asked for leave
//! this file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use radialog_schemas::table::split_name;
use radialog_schemas::{Label, counted};

use super::agreement::{CLASSES, Flags, present};
use crate::error::TrainingError;
use crate::evaluation::subgroups::{self, GROUPS, Subgroup};
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
    /// The subgroups that its row names.
    pub(super) groups: Vec<Subgroup>,
}

impl LabelledTestImage {
    /// What is known: a blank cell is not, and neither is what is thought possible.
    pub(super) fn truth(&self) -> [Option<bool>; CLASSES] {
        self.labels.map(|label| match label {
            Label::Positive => Some(true),
            Label::Negative => Some(false),
            Label::Blank | Label::Uncertain => None,
        })
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

/// The reports of a split.
#[derive(Debug)]
pub(super) struct SplitReports {
    /// Those that have a findings section, in the order of the table.
    pub(super) reports: Vec<ReportRow>,
    /// How many have none.
    pub(super) without_findings: usize,
}

impl SplitReports {
    /// Says that reports were left out.
    pub(super) fn note(&self) -> Option<String> {
        let count = self.without_findings;
        (count > 0).then(|| {
            let reports = counted(
                count,
                "report of the split has",
                "reports of the split have",
            );
            format!("{reports} no findings section: not scored.")
        })
    }
}

/// The reports of a split.
///
/// # Errors
/// A table that is none, or no report with a findings section.
pub(super) fn reports(path: &Path, split: &str) -> Result<SplitReports, TrainingError> {
    let reports = reports_if_any(path, split)?;
    if reports.reports.is_empty() {
        let reason = format!(
            "'{}' has no report with findings of the split '{split}'",
            path.display()
        );
        return Err(TrainingError::Empty(reason));
    }
    Ok(reports)
}

/// As [`reports`], of a split that the table may be without.
pub(super) fn reports_if_any(path: &Path, split: &str) -> Result<SplitReports, TrainingError> {
    let mut reports = read_report_table(path)?;
    reports.retain(|report| report.split == split);
    let all = reports.len();
    reports.retain(|report| !report.findings.trim().is_empty());
    Ok(SplitReports {
        without_findings: all - reports.len(),
        reports,
    })
}

/// The images of a split, in the order of the tables. Where a table has no column `patient_id`, or a row nothing in it, the image
/// is of another patient than all others.
///
/// # Errors
/// A table without the columns `image`, `split` and the 14 findings, or without an image of the split.
pub(super) fn images(
    tables: &[ImageTable],
    split: &str,
) -> Result<Vec<LabelledTestImage>, TrainingError> {
    let mut images = Vec::new();
    for (number, table) in tables.iter().enumerate() {
        let found = of_table(number, table, split)?;
        if found.is_empty() {
            let shown = table.labels.display();
            let reason = format!("'{shown}' has no image of the split '{split}'");
            return Err(TrainingError::Empty(reason));
        }
        images.extend(found);
    }
    Ok(images)
}

/// As [`images`], of a split that tables may be without.
pub(super) fn images_if_any(
    tables: &[ImageTable],
    split: &str,
) -> Result<Vec<LabelledTestImage>, TrainingError> {
    let tables = tables.iter().enumerate();
    let images = tables.map(|(number, table)| of_table(number, table, split));
    Ok(images.collect::<Result<Vec<_>, _>>()?.concat())
}

/// How many of the patients of some images have others, too.
pub(super) fn shared_patients<'a>(
    some: impl Iterator<Item = &'a LabelledTestImage>,
    others: impl Iterator<Item = &'a LabelledTestImage>,
) -> usize {
    let some: BTreeSet<&str> = some.map(|image| image.patient.as_str()).collect();
    let others: BTreeSet<&str> = others.map(|image| image.patient.as_str()).collect();
    some.intersection(&others).count()
}

fn of_table(
    number: usize,
    table: &ImageTable,
    split: &str,
) -> Result<Vec<LabelledTestImage>, TrainingError> {
    let mut rows = TableFile::open(&table.labels)?;
    let (image, side, columns) = (
        rows.column("image")?,
        rows.column("split")?,
        rows.findings()?,
    );
    let patient = rows.patient_column()?;
    let groups = subgroups::columns(&rows)?;
    let mut images = Vec::new();
    while let Some(row) = rows.next_row()? {
        let cell = |column: usize| row.cell(column).unwrap_or_default();
        let groups = GROUPS
            .iter()
            .zip(groups)
            .filter_map(|(&(kind, _), column)| Subgroup::of(kind, row.cell(column?)?));
        if split_name(cell(side)) == split {
            images.push(LabelledTestImage {
                patient: patient
                    .and_then(|patient| row.cell(patient))
                    .unwrap_or(cell(image))
                    .to_owned(),
                path: table.images.join(cell(image)),
                table: number,
                labels: rows.labels(&row, &columns)?,
                groups: groups.collect(),
            });
        }
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use radialog_schemas::Finding;

    use super::*;

    #[test]
    fn an_image_whose_patient_is_not_known_is_of_one_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let labels = dir.path().join("labels.csv");
        let names = Finding::ALL.map(Finding::name).join(",");
        let rows = [
            ("a.png", "p1"),
            ("b.png", ""),
            ("c.png", "nan"),
            ("d.png", "p1"),
        ];
        let rows =
            rows.map(|(image, patient)| format!("{image},{patient},test{}\n", ",".repeat(14)));
        let table = format!("image,patient_id,split,{names}\n{}", rows.concat());
        std::fs::write(&labels, table).unwrap();
        let table = ImageTable {
            labels,
            ..ImageTable::default()
        };
        let images = images(&[table], "test").unwrap();
        let patients: Vec<&str> = images.iter().map(|image| image.patient.as_str()).collect();
        assert_eq!(patients, ["p1", "b.png", "c.png", "p1"]);
    }

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
        let found = reports(&path, "test").unwrap();
        let ids: Vec<&str> = found.reports.iter().map(|row| row.study.as_str()).collect();
        assert_eq!(ids, ["a"]);
        let note = "1 report of the split has no findings section: not scored.";
        assert_eq!(found.note().as_deref(), Some(note));
        assert_eq!(reports(&path, "train").unwrap().note(), None);
        assert!(
            reports(&path, "validate")
                .unwrap_err()
                .to_string()
                .contains("split 'validate'")
        );
    }
}
