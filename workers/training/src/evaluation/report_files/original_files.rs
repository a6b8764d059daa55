//! The files that the original's test program writes, under its names and in its wording, so that scripts made for it still
//! read them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use radialog_models::durable::{self, Replacement};
use radialog_schemas::{Finding, Label};

use super::EvaluatedReports;
use crate::error::TrainingError;
use crate::evaluation::corpus::MatchedStudy;
use crate::evaluation::report_scores::{Metric, MetricGroup};
use crate::prepare::CsvOutput;

/// The folder of predictions and labels.
const PREDICTIONS: &str = "chexbert/outputs/predictions";
/// The folder of scores.
const RESULTS: &str = "vicuna_results";

/// The scores in the original's order: its words, and ours.
const LINES: [(&str, MetricGroup, &str); 11] = [
    ("Avg Bleu 1", MetricGroup::Text, "BLEU-1"),
    ("Avg Bleu 2", MetricGroup::Text, "BLEU-2"),
    ("Avg Bleu 3", MetricGroup::Text, "BLEU-3"),
    ("Avg Bleu 4", MetricGroup::Text, "BLEU-4"),
    // Without its data it is another score, which scripts would take for the original's.
    ("Avg Meteor", MetricGroup::Text, "METEOR 1.5"),
    ("Avg Rouge", MetricGroup::Text, "ROUGE-L"),
    ("Mean Chexpert F1", MetricGroup::Labels, "macro F1"),
    (
        "Mean Chexpert Precision",
        MetricGroup::Labels,
        "macro precision",
    ),
    ("Mean Chexpert Recall", MetricGroup::Labels, "macro recall"),
    ("Sample Chexpert F1", MetricGroup::Labels, "sample F1"),
    ("Mean Chexpert Accuracy", MetricGroup::Labels, "accuracy"),
];

/// Writes predictions, labels and scores below a folder, and returns their paths. The name of the experiment is that of the run,
/// with `_` for `/`.
///
/// # Errors
/// A file cannot be written, or a text not be read.
pub fn write_original_files(
    folder: &Path,
    evaluated: &EvaluatedReports<'_>,
) -> Result<Vec<PathBuf>, TrainingError> {
    let name = evaluated.name.trim_matches('/').replace('/', "_");
    let (predictions, results) = (folder.join(PREDICTIONS), folder.join(RESULTS));
    for folder in [&predictions, &results] {
        fs::create_dir_all(folder).map_err(TrainingError::io("create", folder))?;
    }
    let texts = predictions.join(format!("predictions_{name}.csv"));
    write_texts(&texts, evaluated)?;
    let mut written = vec![texts];
    if evaluated
        .corpus
        .studies
        .iter()
        .any(|study| study.labels.is_some())
    {
        let labels = predictions.join(format!("labels_{name}.csv"));
        write_labels(&labels, evaluated)?;
        written.push(labels);
    }
    let scores = results.join(format!("results_{name}.txt"));
    let mut text = format!("{}\n", evaluated.name);
    for (words, group, metric) in LINES {
        let of = |found: &&Metric| {
            found.group == group && found.finding.is_none() && found.name.starts_with(metric)
        };
        let estimate = evaluated.scores.metrics.iter().find(of);
        if let Some(estimate) = estimate.and_then(|metric| metric.estimate) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{words}: {:?}", estimate.value);
        }
    }
    durable::replace(&scores, text.as_bytes()).map_err(TrainingError::io("write", &scores))?;
    written.push(scores);
    Ok(written)
}

fn report(study: &MatchedStudy, evaluated: &EvaluatedReports<'_>) -> Result<String, TrainingError> {
    let text = study.prediction.map(|span| evaluated.texts.read(span));
    let text = text.transpose();
    let text = text.map_err(TrainingError::io(
        "read texts of",
        "a temporary file".as_ref(),
    ))?;
    Ok(text.unwrap_or_default())
}

/// A text a line, between quotes and without any of its own.
fn write_texts(path: &Path, evaluated: &EvaluatedReports<'_>) -> Result<(), TrainingError> {
    let mut file = Replacement::create(path).map_err(TrainingError::io("create", path))?;
    for study in &evaluated.corpus.studies {
        let text = report(study, evaluated)?.replace('"', "");
        let written = std::io::Write::write_all(&mut file, format!("\"{text}\"\n").as_bytes());
        written.map_err(TrainingError::io("write", path))?;
    }
    file.commit().map_err(TrainingError::io("write", path))
}

/// What the labeler says, as its own program writes it: the text, then the findings in the order of its heads.
fn write_labels(path: &Path, evaluated: &EvaluatedReports<'_>) -> Result<(), TrainingError> {
    let names = Finding::chexbert_order().map(Finding::name);
    let mut table = CsvOutput::create_as_pandas(path, std::iter::once("findings").chain(names))?;
    for study in &evaluated.corpus.studies {
        let text = report(study, evaluated)?;
        let labels = study.labels.unwrap_or([Label::Blank; Finding::ALL.len()]);
        let cells = Finding::chexbert_order().map(|finding| labels[finding as usize].csv_value());
        table.row(std::iter::once(text.as_str()).chain(cells))?;
    }
    table.finish()?;
    Ok(())
}
