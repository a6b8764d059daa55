//! What an evaluation says: tables of scores with intervals, the same for people and for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::resampling::Measure;

/// One part of the evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// What was measured.
    pub title: String,
    /// How to read it.
    pub notes: Vec<String>,
    /// The figures.
    pub tables: Vec<Table>,
}

/// Rows of scores with the same columns.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// What its rows are.
    pub title: String,
    /// Names of the scores, in order.
    pub columns: Vec<String>,
    /// One row for each thing that is compared.
    pub rows: Vec<Row>,
}

/// One row of a table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was scored: a model, a baseline, a finding.
    pub name: String,
    /// Its scores, by column.
    pub scores: BTreeMap<String, Cell>,
}

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// A number of things.
    Count(u64),
    /// A figure without an interval: it follows from how it is defined, or is a probability of a test.
    Fixed(f64),
    /// A figure with its interval.
    Measured(Measure),
    /// The data cannot tell, e.g. no study has the finding.
    Undefined,
}

impl Table {
    pub(super) fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.iter().map(|&name| name.into()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with a cell for each column.
    pub(super) fn row(&mut self, name: impl Into<String>, cells: impl IntoIterator<Item = Cell>) {
        let scores = self.columns.iter().cloned().zip(cells).collect();
        self.rows.push(Row {
            name: name.into(),
            scores,
        });
    }
}

impl From<Option<Measure>> for Cell {
    fn from(measure: Option<Measure>) -> Self {
        measure.map_or(Cell::Undefined, Cell::Measured)
    }
}

impl From<usize> for Cell {
    fn from(count: usize) -> Self {
        Cell::Count(count as u64)
    }
}
