//! The files that the original's test program writes of reports: texts, labels and scores.

use std::path::{Path, PathBuf};

use radialog_models::durable::Replacement;
use radialog_schemas::{Finding, Label};

use super::EvaluatedReports;
use crate::error::TrainingError;
use crate::evaluation::corpus::MatchedStudy;
use crate::evaluation::original_files::{
    OriginalFiles, OriginalScore, make_folder_of, report_lines,
};
use crate::evaluation::report_scores::{Metric, MetricGroup};
use crate::evaluation::stored_rows::temporary;
use crate::prepare::CsvOutput;

/// The files that are written below a folder for a run of this name.
pub fn original_files(folder: &Path, name: &str) -> [PathBuf; 3] {
    let files = OriginalFiles::of(folder, name);
    [files.predictions(), files.labels(), files.scores("")]
}

/// Writes predictions, labels and scores below a folder, and returns their paths. The name of the experiment is that of the run,
/// with `_` for `/`.
///
/// # Errors
/// A file cannot be written, or a text not be read.
pub fn write_original_files(
    folder: &Path,
    evaluated: &EvaluatedReports<'_>,
) -> Result<Vec<PathBuf>, TrainingError> {
    let files = OriginalFiles::of(folder, &evaluated.name);
    let texts = files.predictions();
    make_folder_of(&texts)?;
    write_texts(&texts, evaluated)?;
    let mut written = vec![texts];
    let mut has_labels = false;
    for study in evaluated.corpus.studies.iter() {
        has_labels |= study.map_err(temporary)?.labels.is_some();
    }
    if has_labels {
        let labels = files.labels();
        write_labels(&labels, evaluated)?;
        written.push(labels);
    }
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

/// A text a line, between quotes and without any of its own.
fn write_texts(path: &Path, evaluated: &EvaluatedReports<'_>) -> Result<(), TrainingError> {
    let mut file = Replacement::create(path).map_err(TrainingError::io("create", path))?;
    for study in evaluated.corpus.studies.iter() {
        let text = report(&study.map_err(temporary)?, evaluated)?.replace('"', "");
        let written = std::io::Write::write_all(&mut file, format!("\"{text}\"\n").as_bytes());
        written.map_err(TrainingError::io("write", path))?;
    }
    file.commit().map_err(TrainingError::io("write", path))
}

/// What the labeler says, as its own program writes it: the text, then the findings in the order of its heads.
fn write_labels(path: &Path, evaluated: &EvaluatedReports<'_>) -> Result<(), TrainingError> {
    let names = Finding::chexbert_order().map(Finding::name);
    let mut table = CsvOutput::create_as_pandas(path, std::iter::once("findings").chain(names))?;
    for study in evaluated.corpus.studies.iter() {
        let study = study.map_err(temporary)?;
        let text = report(&study, evaluated)?;
        let labels = study.labels.unwrap_or([Label::Blank; Finding::ALL.len()]);
        let cells = Finding::chexbert_order().map(|finding| labels[finding as usize].csv_value());
        table.row(std::iter::once(text.as_str()).chain(cells))?;
    }
    table.finish()?;
    Ok(())
}
