//! What an evaluation says: tables of scores with intervals, the same for people and for programs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evaluation::bootstrap::{Bootstrap, Estimate};
use crate::evaluation::report_scores::ReliabilityBins;

/// What one part of the evaluation has come to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScoreSection {
    /// What was measured.
    pub title: String,
    /// Notes on how to read it.
    pub notes: Vec<String>,
    /// Why figures say less than they seem to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cautions: Vec<String>,
    /// The figures.
    pub tables: Vec<ScoreTable>,
    /// How often what has a probability is there, by what was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reliability: Vec<Reliability>,
}

/// How often findings of a stated probability are there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reliability {
    /// On which images.
    pub name: String,
    /// Answers by tenths of the probability.
    pub calibration: ReliabilityBins,
}

/// A table of scores, whose rows have the same columns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScoreTable {
    /// What its rows are.
    pub title: String,
    /// Names of the scores, in order.
    pub columns: Vec<String>,
    /// One row for each thing that is compared.
    pub rows: Vec<ScoreRow>,
}

/// A row of scores: those of one model, baseline or finding.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScoreRow {
    /// What was scored: a model, a baseline, a finding.
    pub name: String,
    /// Its scores, by column.
    pub scores: BTreeMap<String, ScoreCell>,
}

/// A figure in a table of scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ScoreCell {
    /// A number of things.
    Count(u64),
    /// A figure without an interval: it follows from how it is defined, or is a probability of a test.
    Fixed(f64),
    /// A figure with its interval.
    Measured(Estimate),
    /// The data cannot tell, e.g. no study has the finding.
    Undefined,
}

impl ScoreTable {
    pub(super) fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.iter().map(|&name| name.into()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// Where there are more or fewer cells than columns.
    pub(super) fn row(
        &mut self,
        name: impl Into<String>,
        cells: impl IntoIterator<Item = ScoreCell>,
    ) {
        let (name, cells): (String, Vec<ScoreCell>) = (name.into(), cells.into_iter().collect());
        assert_eq!(
            cells.len(),
            self.columns.len(),
            "cells of '{name}' in '{}', one for each column",
            self.title
        );
        let scores = self.columns.iter().cloned().zip(cells).collect();
        self.rows.push(ScoreRow { name, scores });
    }
}

impl ScoreCell {
    /// A figure of all items, with its interval where resamples vary in it: where all that define it have the same patient, it
    /// would look certain.
    pub(super) fn measured(
        resamples: &Bootstrap,
        varies: bool,
        statistic: impl Fn(&[usize]) -> Option<f64> + Sync,
    ) -> Self {
        if varies {
            return resamples.measure(statistic).into();
        }
        let all: Vec<usize> = (0..resamples.items()).collect();
        statistic(&all).map_or(Self::Undefined, Self::Fixed)
    }
}

impl From<Option<Estimate>> for ScoreCell {
    fn from(measure: Option<Estimate>) -> Self {
        measure.map_or(ScoreCell::Undefined, ScoreCell::Measured)
    }
}

impl From<usize> for ScoreCell {
    fn from(count: usize) -> Self {
        ScoreCell::Count(count as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "cells of 'prior' in 'all findings'")]
    fn a_row_with_a_cell_too_few_is_a_mistake_of_ours() {
        let mut table = ScoreTable::new("all findings", &["AUC", "Brier"]);
        table.row("classifier", [ScoreCell::Fixed(0.5), ScoreCell::Undefined]);
        table.row("prior", [ScoreCell::Fixed(0.5)]);
    }
}
