//! The scores of each study, and what is wrong with the files, as tables.

use std::path::Path;

use radialog_schemas::Finding;

use super::EvaluatedReports;
use crate::error::TrainingError;
use crate::evaluation::corpus::Corpus;
use crate::evaluation::report_scores::StudyScores;
use crate::evaluation::text_scores::protocol::TextProtocol;
use crate::prepare::CsvOutput;

/// Writes a row for each study: its own scores (BLEU of one text is not BLEU of many), and findings by name.
pub(super) fn write(path: &Path, evaluated: &EvaluatedReports<'_>) -> Result<(), TrainingError> {
    let has_cider = evaluated.options.protocol == TextProtocol::CocoCaption;
    let mut names = vec![
        "study_id",
        "patient",
        "words",
        "reference_words",
        "bleu_1",
        "bleu_2",
        "bleu_3",
        "bleu_4",
        "meteor",
        "rouge_l",
    ];
    names.extend(has_cider.then_some("cider"));
    names.extend([
        "label_f1",
        "true_positive",
        "false_positive",
        "false_negative",
        "seen_not_stated",
        "stated_not_seen",
    ]);
    let mut table = CsvOutput::create(path, names)?;
    for (study, scores) in evaluated
        .corpus
        .studies
        .iter()
        .zip(&evaluated.scores.studies)
    {
        let mut cells = vec![study.id.clone(), study.patient.to_string()];
        text_cells(scores, has_cider, &mut cells);
        label_cells(scores, &mut cells);
        table.row(cells.iter().map(String::as_str))?;
    }
    table.finish()?;
    Ok(())
}

fn text_cells(scores: &StudyScores, has_cider: bool, cells: &mut Vec<String>) {
    if !scores.has_text {
        cells.resize(cells.len() + 8 + usize::from(has_cider), String::new());
        return;
    }
    cells.push(scores.words.0.to_string());
    cells.push(scores.words.1.to_string());
    let mut values = scores.bleu.scores().to_vec();
    values.extend([scores.meteor.score(), scores.rouge]);
    values.extend(has_cider.then_some(scores.cider));
    cells.extend(values.iter().map(|value| format!("{value:.6}")));
}

fn label_cells(scores: &StudyScores, cells: &mut Vec<String>) {
    let names = |holds: &dyn Fn(usize) -> bool| {
        let names = Finding::ALL
            .into_iter()
            .filter(|finding| holds(*finding as usize));
        names.map(Finding::name).collect::<Vec<_>>().join("; ")
    };
    match &scores.report {
        Some((truth, said)) => {
            cells.push(
                scores
                    .label_f1()
                    .map_or_else(String::new, |f1| format!("{f1:.6}")),
            );
            cells.push(names(&|class| truth[class] == Some(true) && said[class]));
            cells.push(names(&|class| truth[class] == Some(false) && said[class]));
            cells.push(names(&|class| truth[class] == Some(true) && !said[class]));
        }
        None => cells.resize(cells.len() + 4, String::new()),
    }
    match &scores.disagreement {
        Some((seen, stated)) => {
            cells.push(names(&|class| seen[class]));
            cells.push(names(&|class| stated[class]));
        }
        None => cells.resize(cells.len() + 2, String::new()),
    }
}

/// Writes a row for everything that is wrong with the files.
pub(super) fn write_faults(path: &Path, corpus: &Corpus) -> Result<(), TrainingError> {
    let mut table = CsvOutput::create(path, ["file", "line", "id", "fault", "scored", "detail"])?;
    for fault in &corpus.faults {
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
