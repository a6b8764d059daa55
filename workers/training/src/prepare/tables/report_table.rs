//! The report table: one row a study, with the sections of its report and 14 labels in CheXpert's meaning. `prepare openi`
//! writes it, `prepare pairs` adds an image to each row, and both are read again for the data sets of the language model.

use std::path::Path;

use radialog_schemas::table::split_name;
use radialog_schemas::{Finding, Label};

use super::csv_output::CsvOutput;
use super::finding_labels::FindingLabels;
use super::table_file::{TableFile, text};
use crate::error::TrainingError;

/// The columns in front of the labels.
pub const REPORT_COLUMNS: [&str; 6] = [
    "study_id",
    "split",
    "findings",
    "impression",
    "indication",
    "text",
];
/// The columns of the table of pairs in front of the labels.
pub const PAIR_COLUMNS: [&str; 5] = ["study_id", "split", "image", "findings", "impression"];

/// The column of the patient, which a table is written with where it names any.
const PATIENT_COLUMN: &str = "patient_id";

/// One row of a report table or of a table of pairs: a study with its report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRow {
    /// Identifies the study.
    pub study: String,
    /// `train`, `validate`, `test` or another side.
    pub split: String,
    /// The findings section; may be empty.
    pub findings: String,
    /// The impression section; may be empty.
    pub impression: String,
    /// The reason why the patient came; may be empty.
    pub indication: String,
    /// The image of the row, where the table has one.
    pub image: String,
    /// The patient, where the table names it (`patient_id`, `subject_id` or `patient`, however spelled).
    pub patient: Option<String>,
    /// 1, 0, -1 or nothing, in the published order.
    pub labels: FindingLabels,
}

impl ReportRow {
    /// A report of findings alone, of no known patient.
    pub(crate) fn of_findings(
        study: &str,
        split: &str,
        findings: &str,
        labels: FindingLabels,
    ) -> Self {
        Self {
            study: study.to_owned(),
            split: split.to_owned(),
            findings: findings.to_owned(),
            impression: String::new(),
            indication: String::new(),
            image: String::new(),
            patient: None,
            labels,
        }
    }

    /// Who is drawn where intervals are: the patient, or the study where no patient is known.
    pub(crate) fn drawn_with(&self) -> &String {
        self.patient.as_ref().unwrap_or(&self.study)
    }

    /// Returns findings and impression, as the labeler reads a whole report.
    pub fn text(&self) -> String {
        [self.findings.as_str(), &self.impression]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Writes a report table; it appears under its name when it is whole.
///
/// # Errors
/// A file that cannot be written.
pub fn write_report_table(path: &Path, rows: &[ReportRow]) -> Result<(), TrainingError> {
    let cells = |row: &ReportRow| {
        vec![
            row.study.clone(),
            row.split.clone(),
            row.findings.clone(),
            row.impression.clone(),
            row.indication.clone(),
            row.text(),
        ]
    };
    write_rows(path, &REPORT_COLUMNS, rows, cells)
}

/// Writes a table of pairs.
///
/// # Errors
/// A file that cannot be written.
pub fn write_pairs_table(path: &Path, rows: &[ReportRow]) -> Result<(), TrainingError> {
    let cells = |row: &ReportRow| -> Vec<String> {
        [
            &row.study,
            &row.split,
            &row.image,
            &row.findings,
            &row.impression,
        ]
        .into_iter()
        .cloned()
        .collect()
    };
    write_rows(path, &PAIR_COLUMNS, rows, cells)
}

/// Writes rows with their patients, where any is known.
fn write_rows(
    path: &Path,
    columns: &[&'static str],
    rows: &[ReportRow],
    cells: impl Fn(&ReportRow) -> Vec<String>,
) -> Result<(), TrainingError> {
    let are_named = rows.iter().any(|row| row.patient.is_some());
    let patient = are_named.then_some(PATIENT_COLUMN);
    let columns: Vec<&str> = columns.iter().copied().chain(patient).collect();
    let rows = rows.iter().map(|row| {
        let patient = are_named.then(|| row.patient.clone().unwrap_or_default());
        let cells = cells(row).into_iter().chain(patient);
        (cells.collect(), &row.labels)
    });
    write(path, &columns, rows)
}

/// Writes columns of text and then the 14 labels.
pub(crate) fn write<'a>(
    path: &Path,
    columns: &[&'static str],
    rows: impl Iterator<Item = (Vec<String>, &'a FindingLabels)>,
) -> Result<(), TrainingError> {
    let findings = Finding::ALL.into_iter().map(Finding::name);
    let mut table = CsvOutput::create(path, columns.iter().copied().chain(findings))?;
    for (cells, labels) in rows {
        let labels = labels.iter().map(|label| cell(*label));
        table.row(cells.iter().map(String::as_str).chain(labels))?;
    }
    table.finish()?;
    Ok(())
}

fn cell(label: Label) -> &'static str {
    match label {
        Label::Blank => "",
        Label::Positive => "1",
        Label::Negative => "0",
        Label::Uncertain => "-1",
    }
}

/// Reads a report table or a table of pairs.
///
/// # Errors
/// No such file, a column that is missing, a study without a name or named twice, a label other than 1, 0, -1 or nothing,
/// or no row at all; each with its line.
pub fn read_report_table(path: &Path) -> Result<Vec<ReportRow>, TrainingError> {
    let mut table = TableFile::open(path)?;
    let (study, split, findings) = (
        table.column("study_id")?,
        table.column("split")?,
        table.column("findings")?,
    );
    let (impression, indication) = (table.optional("impression")?, table.optional("indication")?);
    let image = table.optional("image")?;
    let patient = table.patient_column()?;
    let labels = table.findings()?;
    let mut rows: Vec<ReportRow> = Vec::new();
    let mut known = std::collections::HashSet::new();
    while let Some(cells) = table.next_row()? {
        let cell = |column: Option<usize>| {
            let cell = column.and_then(|column| cells.cell(column));
            cell.unwrap_or_default().to_owned()
        };
        let section =
            |column: Option<usize>| column.map_or("", |column| text(&cells, column)).to_owned();
        let row = ReportRow {
            study: cell(Some(study)),
            split: split_name(&cell(Some(split))).to_owned(),
            findings: section(Some(findings)),
            impression: section(impression),
            indication: section(indication),
            image: cell(image),
            patient: Some(cell(patient)).filter(|patient| !patient.is_empty()),
            labels: table.labels(&cells, &labels)?,
        };
        if row.study.is_empty() || !known.insert(row.study.clone()) {
            let reason = format!(
                "study_id '{}' is empty or stands twice: each row is another study",
                row.study
            );
            return Err(table.fault(&cells, reason));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(TrainingError::Empty(format!(
            "'{}' has no row",
            path.display()
        )));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> ReportRow {
        let mut labels = [Label::Blank; Finding::ALL.len()];
        labels[Finding::Edema as usize] = Label::Positive;
        labels[Finding::Fracture as usize] = Label::Negative;
        labels[Finding::Pneumonia as usize] = Label::Uncertain;
        ReportRow {
            study: "CXR1".to_owned(),
            split: "train".to_owned(),
            findings: "Edema, \"mild\".".to_owned(),
            impression: "Edema.".to_owned(),
            indication: String::new(),
            image: String::new(),
            patient: Some("p1".to_owned()),
            labels,
        }
    }

    #[test]
    fn both_tables_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports.csv");
        write_report_table(&path, &[row()]).unwrap();
        assert_eq!(read_report_table(&path).unwrap(), [row()]);
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .contains("\"Edema, \"\"mild\"\". Edema.\""),
            "text is both sections"
        );
        let pair = ReportRow {
            image: "a.png".to_owned(),
            ..row()
        };
        write_pairs_table(&path, std::slice::from_ref(&pair)).unwrap();
        assert_eq!(read_report_table(&path).unwrap(), [pair]);
    }

    #[test]
    fn the_patient_is_read_whatever_the_spelling_of_its_column() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.csv");
        write_pairs_table(&path, &[row()]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for column in ["Patient ID", "subject_id", "patient"] {
            std::fs::write(&path, text.replacen("patient_id", column, 1)).unwrap();
            let rows = read_report_table(&path).unwrap();
            assert_eq!(rows[0].patient.as_deref(), Some("p1"), "{column}");
        }
    }

    #[test]
    fn a_study_that_stands_twice_and_a_table_without_rows_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports.csv");
        write_report_table(&path, &[row(), row()]).unwrap();
        let error = read_report_table(&path).unwrap_err().to_string();
        assert!(
            error.contains("line 3") && error.contains("CXR1"),
            "{error}"
        );
        write_report_table(&path, &[]).unwrap();
        assert!(
            read_report_table(&path)
                .unwrap_err()
                .to_string()
                .contains("no row")
        );
        let error = read_report_table(&dir.path().join("none.csv"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cannot open") && error.contains("none.csv"),
            "{error}"
        );
    }
}
