//! The scores of each study, and what is wrong with the files, as tables.

use std::path::Path;

use super::{EvaluatedReports, FAULTS_FILE};
use crate::error::TrainingError;
use crate::evaluation::corpus::Corpus;
use crate::evaluation::report_scores::StudyScores;
use crate::evaluation::stored_rows::temporary;
use crate::evaluation::study_answers::{self, decimal, names};
use crate::prepare::CsvOutput;

/// Writes a row for each study: its own scores (BLEU of one text is not BLEU of many), and findings by name.
pub(super) fn write(path: &Path, evaluated: &EvaluatedReports<'_>) -> Result<(), TrainingError> {
    let scorer = &evaluated.options.scorer;
    let texts = scorer.protocol().columns();
    let mut columns = vec!["study_id", "patient", "words", "reference_words"];
    columns.extend(texts);
    columns.extend([
        "label_f1",
        "severity",
        "true_positive",
        "false_positive",
        "false_negative",
        "seen_not_stated",
        "stated_not_seen",
        "sentences",
        "comparing_sentences",
        "agreement",
        "radgraph_f1",
        "radcliq_v1",
        "line",
        "split",
        "image",
    ]);
    let mut table = CsvOutput::create(path, columns)?;
    let studies = evaluated.corpus.studies.iter();
    for (study, scores) in studies.zip(evaluated.scores.studies.iter()) {
        let (study, scores) = (study.map_err(temporary)?, scores.map_err(temporary)?);
        let mut cells = vec![study.id, study.patient.to_string()];
        match &scores.text {
            Some(text) => {
                let (words, reference_words) = text.bleu.lengths();
                cells.extend([words.to_string(), reference_words.to_string()]);
                cells.extend(scorer.scores(text).iter().map(|score| decimal(score.value)));
            }
            None => cells.resize(cells.len() + 2 + texts.len(), String::new()),
        }
        label_cells(&scores, &mut cells);
        let comparisons = scores.comparisons;
        let or_empty = |count: Option<u64>| count.map_or_else(String::new, |n| n.to_string());
        cells.extend([
            or_empty(comparisons.map(|counts| counts.sentences)),
            or_empty(comparisons.map(|counts| counts.comparing_sentences)),
            scores.agreement.map_or_else(String::new, decimal),
            scores.radgraph_f1.map_or_else(String::new, decimal),
            scores.radcliq_v1.map_or_else(String::new, decimal),
            study.line.to_string(),
            study.split.unwrap_or_default(),
            study.image,
        ]);
        table.row(cells.iter().map(String::as_str))?;
    }
    table.finish()?;
    Ok(())
}

fn label_cells(scores: &StudyScores, cells: &mut Vec<String>) {
    match &scores.report {
        Some((truth, said)) => {
            let severity = scores.severity.map(|errors| errors.weight);
            let [label_f1, named @ ..] = study_answers::cells(truth, said);
            cells.push(label_f1);
            cells.push(severity.map_or_else(String::new, |weight| weight.to_string()));
            cells.extend(named);
        }
        None => cells.resize(cells.len() + 5, String::new()),
    }
    match &scores.disagreement {
        Some((seen, stated)) => cells.extend([names(|at| seen[at]), names(|at| stated[at])]),
        None => cells.resize(cells.len() + 2, String::new()),
    }
}

/// Writes a row for everything that is wrong with the files into [`FAULTS_FILE`] of a folder.
///
/// # Errors
/// The file cannot be written.
pub fn write_faults(folder: &Path, corpus: &Corpus) -> Result<(), TrainingError> {
    let names = ["file", "line", "id", "fault", "scored", "detail"];
    let mut table = CsvOutput::create(&folder.join(FAULTS_FILE), names)?;
    for fault in corpus.faults.iter() {
        let fault = fault.map_err(temporary)?;
        let line = fault.line.to_string();
        let scored = if fault.kind.is_scored() { "yes" } else { "no" };
        table.row([
            &*fault.file,
            &line,
            &fault.id,
            fault.kind.words(),
            scored,
            &fault.detail,
        ])?;
    }
    table.finish()?;
    Ok(())
}
