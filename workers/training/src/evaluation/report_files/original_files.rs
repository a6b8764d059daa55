//! The files that the original's test program writes of reports: texts, labels and scores.

use std::path::{Path, PathBuf};

use radialog_schemas::{Finding, Label};

use super::EvaluatedReports;
use crate::error::TrainingError;
use crate::evaluation::corpus::MatchedStudy;
use crate::evaluation::original_files::{OriginalFiles, OriginalScore, report_lines};
use crate::evaluation::report_scores::{Metric, MetricGroup};
use crate::evaluation::stored_rows::temporary;

/// The files that are written below a folder for a run of this name.
pub fn original_files(folder: &Path, name: &str) -> [PathBuf; 3] {
    let files = OriginalFiles::of(folder, name);
    files.all("")
}

/// Writes predictions, labels and scores below a folder, and returns their paths. The name of the experiment is that of the run,
/// with `_` for `/`. It stands above the scores, too, where the original has a prompt, which records do not hold.
///
/// # Errors
/// A file cannot be written, or a text not be read.
pub fn write_original_files(
    folder: &Path,
    evaluated: &EvaluatedReports<'_>,
) -> Result<Vec<PathBuf>, TrainingError> {
    let files = OriginalFiles::of(folder, &evaluated.name);
    let mut has_labels = false;
    for study in evaluated.corpus.studies.iter() {
        has_labels |= study.map_err(temporary)?.labels.is_some();
    }
    let mut reports = files.reports("", has_labels)?;
    for study in evaluated.corpus.studies.iter() {
        let study = study.map_err(temporary)?;
        let labels = study.labels.unwrap_or([Label::Blank; Finding::ALL.len()]);
        reports.add(&report(&study, evaluated)?, &labels)?;
    }
    let mut written = reports.finish()?;
    let value = |score| {
        let (group, name) = match score {
            OriginalScore::Text(name) => (MetricGroup::Text, name),
            OriginalScore::Labels(name) => (MetricGroup::Labels, name),
        };
        let of =
            |found: &&Metric| found.group == group && found.finding.is_none() && found.name == name;
        let metric = evaluated.scores.metrics.iter().find(of)?;
        metric.estimate.map(|estimate| estimate.value)
    };
    let lines = report_lines(&evaluated.name, value);
    written.push(files.write_scores("", &lines)?);
    Ok(written)
}

fn report(study: &MatchedStudy, evaluated: &EvaluatedReports<'_>) -> Result<String, TrainingError> {
    let text = study.prediction.map(|span| evaluated.texts.read(span));
    let text = text.transpose().map_err(temporary)?;
    Ok(text.unwrap_or_default())
}
