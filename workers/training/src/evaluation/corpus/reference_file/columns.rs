//! Which columns a table of references has.

use std::path::Path;

use radialog_schemas::table::Row;
use radialog_schemas::{Finding, Label};

use crate::error::TrainingError;
use crate::evaluation::corpus::prediction_file::{FILE_COLUMNS, ID_COLUMNS};
use crate::prepare::{FindingLabels, TableFile};

/// Names of the columns that have a radiologist's text, the best first.
const TEXT_COLUMNS: [&str; 5] = [
    "findings",
    "section_findings",
    "reference",
    "report",
    "text",
];

/// Where a table has what.
pub(super) struct Columns {
    pub(super) ids: Vec<usize>,
    /// Names of files, whose stem is an id.
    pub(super) files: Vec<usize>,
    pub(super) text: Option<usize>,
    pub(super) findings: [Option<usize>; Finding::ALL.len()],
    pub(super) patient: Option<usize>,
    pub(super) split: Option<usize>,
    pub(super) image: Option<usize>,
    /// The others.
    pub(super) unused: Vec<usize>,
}

impl Columns {
    /// Finds the columns of a table.
    ///
    /// # Errors
    /// It has no ids, nothing to compare with, a column whose name is nearly a finding's, or two of one name.
    pub(super) fn of(table: &TableFile, path: &Path) -> Result<Self, TrainingError> {
        let all = |names: &[&str]| -> Result<Vec<usize>, TrainingError> {
            let found = names.iter().map(|name| table.optional(name));
            found.filter_map(Result::transpose).collect()
        };
        let mut findings = [None; Finding::ALL.len()];
        for (column, finding) in findings.iter_mut().zip(Finding::ALL) {
            *column = table.optional(finding.name())?;
        }
        let columns = Self {
            ids: all(&ID_COLUMNS)?,
            files: all(&FILE_COLUMNS)?,
            text: table.first(&TEXT_COLUMNS)?,
            findings,
            patient: table.patient_column()?,
            split: table.optional("split")?,
            image: table.optional("image")?,
            unused: Vec::new(),
        };
        let names = table.names();
        let has = |reason: &str| TrainingError::MissingColumn {
            path: path.to_owned(),
            reason: format!("{reason}; it has {}", table.header().listed()),
        };
        if columns.ids.is_empty() && columns.files.is_empty() {
            return Err(has(&format!(
                "no column of ids: a table of references has one of {}, image",
                ID_COLUMNS.join(", ")
            )));
        }
        let unused: Vec<usize> = (0..names.len()).filter(|at| !columns.uses(*at)).collect();
        // A name that is nearly a finding's would be left out without anybody noticing.
        let plain = |name: &str| -> String {
            let letters = name.chars().filter(|c| c.is_alphanumeric());
            letters.flat_map(char::to_lowercase).collect()
        };
        for &column in &unused {
            let near = Finding::ALL
                .into_iter()
                .find(|finding| plain(finding.name()) == plain(&names[column]));
            if let Some(finding) = near {
                return Err(TrainingError::line(
                    path,
                    1,
                    format!(
                        "the column '{}' is not known: write it '{finding}', as CheXpert does",
                        names[column]
                    ),
                ));
            }
        }
        if columns.text.is_none() && columns.findings.iter().all(Option::is_none) {
            return Err(has(&format!(
                "nothing to compare with: a table of references has a column of texts ({}) or columns of the 14 findings",
                TEXT_COLUMNS.join(", ")
            )));
        }
        Ok(Self { unused, ..columns })
    }

    fn uses(&self, column: usize) -> bool {
        let single = [self.text, self.patient, self.split, self.image];
        self.ids.contains(&column)
            || self.files.contains(&column)
            || single.contains(&Some(column))
            || self.findings.contains(&Some(column))
    }

    /// The labels of a row; none where the table has no labels.
    pub(super) fn labels(&self, row: &Row) -> Result<Option<FindingLabels>, String> {
        if self.findings.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut labels = [Label::Blank; Finding::ALL.len()];
        for (finding, column) in Finding::ALL.into_iter().zip(self.findings) {
            if let Some(column) = column {
                let label = row.text(column).parse();
                labels[finding as usize] = label.map_err(|error| format!("{finding}: {error}"))?;
            }
        }
        Ok(Some(labels))
    }
}
