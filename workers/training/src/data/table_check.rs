//! What is wrong with the tables of a training, looked for before its start: all of it at once with lines, and not one row an
//! hour in the middle of it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use radialog_schemas::counted;
use radialog_schemas::table::{Row, split_name};

use crate::error::TrainingError;
use crate::prepare::TableFile;

/// The sides that trainings and evaluations read.
pub(crate) const SIDES: [&str; 3] = ["train", "validate", "test"];

/// The faults of some tables, and what a user should know of them.
#[derive(Default)]
pub(crate) struct TableCheck {
    /// Each with the table and the line that it is told after.
    faults: Vec<(usize, u64, String)>,
    /// The tables that have faults, in the order in which they were read.
    tables: Vec<PathBuf>,
    /// Rows of sides that nothing reads, by the side's name.
    others: BTreeMap<String, u64>,
    /// Rows without what a training learns from, by what that is.
    lacking: BTreeMap<&'static str, u64>,
}

/// The patients of one table, each of whom belongs to one side. Tables of other collections may use the same numbers for other
/// people.
pub(crate) struct TablePatients {
    table: PathBuf,
    column: Option<usize>,
    /// Where each was seen first: side and line. No side once it was told.
    seen: HashMap<String, (Option<&'static str>, u64)>,
}

impl TablePatients {
    /// Patients who are named otherwise than by a column.
    pub(crate) fn unnamed(path: &Path) -> Self {
        Self {
            table: path.to_owned(),
            column: None,
            seen: HashMap::new(),
        }
    }

    /// The patients of a table, where it has a column of them.
    ///
    /// # Errors
    /// It has several of one name.
    pub(crate) fn of(path: &Path, table: &TableFile) -> Result<Self, TrainingError> {
        Ok(Self {
            column: table.patient_column()?,
            ..Self::unnamed(path)
        })
    }
}

impl TableCheck {
    /// Adds a fault of a row.
    pub(crate) fn fault(&mut self, table: &Path, line: u64, reason: impl std::fmt::Display) {
        let known = self.tables.iter().position(|known| known == table);
        let place = known.unwrap_or_else(|| {
            self.tables.push(table.to_owned());
            self.tables.len() - 1
        });
        let fault = format!("'{}' line {line}: {reason}", table.display());
        self.faults.push((place, line, fault));
    }

    /// Adds what is wrong with a row, in words that name its place.
    pub(crate) fn error(&mut self, error: &TrainingError) {
        let last = self.faults.last();
        let (table, line) = last.map_or((0, 0), |(table, line, _)| (*table, *line));
        self.faults.push((table, line, error.to_string()));
    }

    /// Whether anything is wrong.
    pub(crate) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// The side of a row: `train`, `validate` or `test`, none for any other, which is counted. Its patient must not be on another
    /// side, too.
    pub(crate) fn side(
        &mut self,
        row: &Row,
        split: usize,
        patients: &mut TablePatients,
    ) -> Option<&'static str> {
        let patient = patients.column.and_then(|column| row.cell(column));
        self.side_of(
            row.cell(split),
            patient.map(str::to_owned),
            row.line,
            patients,
        )
    }

    /// As [`TableCheck::side`], of a row whose cells are known otherwise.
    pub(crate) fn side_of(
        &mut self,
        split: Option<&str>,
        patient: Option<String>,
        line: u64,
        patients: &mut TablePatients,
    ) -> Option<&'static str> {
        let name = split_name(split.unwrap_or_default());
        let Some(side) = SIDES.into_iter().find(|side| *side == name) else {
            *self.others.entry(name.to_owned()).or_default() += 1;
            return None;
        };
        if let Some(patient) = patient {
            let first = patients
                .seen
                .entry(patient.clone())
                .or_insert((Some(side), line));
            if let Some(other) = first.0
                && other != side
            {
                let earlier = first.1;
                first.0 = None;
                self.fault(
                    &patients.table,
                    line,
                    format!("patient '{patient}' is on two sides: {side} here, {other} in line {earlier}"),
                );
            }
        }
        Some(side)
    }

    /// Counts a row of a side that is not read, since it has no text, or no label.
    pub(crate) fn lacks(&mut self, what: &'static str) {
        *self.lacking.entry(what).or_default() += 1;
    }

    /// Adds a fault where there is no such file.
    pub(crate) fn file(&mut self, table: &Path, line: u64, file: &Path) {
        if !file.is_file() {
            self.fault(
                table,
                line,
                format!("there is no image '{}'", file.display()),
            );
        }
    }

    /// What a user should know of tables without a fault.
    ///
    /// # Errors
    /// All faults, those of a table in the order of its lines.
    pub(crate) fn finish(mut self) -> Result<Vec<String>, TrainingError> {
        if !self.faults.is_empty() {
            self.faults.sort_by_key(|(table, line, _)| (*table, *line));
            let faults = self.faults.into_iter().map(|(_, _, fault)| fault);
            return Err(TrainingError::Tables(faults.collect()));
        }
        let note = |(name, rows): (&String, &u64)| match name.as_str() {
            "" => format!(
                "{} no split: not read",
                counted(*rows, "row names", "rows name")
            ),
            name => format!(
                "{} of a split '{name}': not read",
                counted(*rows, "row is", "rows are")
            ),
        };
        let lacking = |(what, rows): (&&str, &u64)| {
            format!(
                "{} no {what}: not read",
                counted(
                    *rows,
                    "row of train and validate has",
                    "rows of train and validate have"
                )
            )
        };
        let others = self.others.iter().map(note);
        Ok(others.chain(self.lacking.iter().map(lacking)).collect())
    }
}
