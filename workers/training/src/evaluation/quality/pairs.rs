//! Reports written from images, beside what the radiologist wrote about the same images: what a model is worth that was trained on
//! true pairs.

use radialog_schemas::counted;

use super::networks::DialogRequest;
use super::reports::{Writer, content, content_cautions, most_frequent, wording};
use super::score_table::ScoreSection;
use super::statements;
use super::{Evaluator, GeneratedText, QualityPart, TRAIN, flags};
use crate::error::TrainingError;
use crate::evaluation::bootstrap::Bootstrap;
use crate::prepare::{ReportRow, read_report_table};

pub(super) fn measure(evaluator: &mut Evaluator<'_>) -> Result<ScoreSection, TrainingError> {
    let Some(table) = &evaluator.quality.pairs else {
        return Err(TrainingError::Empty("no table of pairs".to_owned()));
    };
    let all = read_report_table(&table.labels)?;
    let of_split = |split: &str| {
        let rows = all.iter().filter(|row| row.split == split);
        let (pairs, others): (Vec<&ReportRow>, Vec<&ReportRow>) =
            rows.partition(|row| !row.findings.trim().is_empty() && !row.image.is_empty());
        let pairs: Vec<ReportRow> = pairs.into_iter().cloned().collect();
        (pairs, others.len())
    };
    let split = evaluator.quality.split.clone();
    let (mut reports, left_out) = of_split(&split);
    reports.truncate(evaluator.quality.limit.unwrap_or(usize::MAX));
    if reports.is_empty() {
        let shown = table.labels.display();
        return Err(TrainingError::Empty(format!(
            "'{shown}' has no image with a report of the split '{split}'"
        )));
    }
    let images: Vec<_> = reports
        .iter()
        .map(|report| table.images.join(&report.image))
        .collect();
    let networks = &evaluator.networks;
    let predicted = networks.classify(&images)?;
    let tokens = networks.embed(&images)?;
    let asked = predicted.iter().zip(&tokens);
    let asked: Vec<DialogRequest> = asked
        .map(|(findings, tokens)| networks.ask_report(&findings.text, tokens))
        .collect::<Result<_, _>>()?;
    let texts = networks.answer("reports of images", &asked)?;
    let labelled = |name, texts: Vec<String>| -> Result<Writer, TrainingError> {
        Ok(Writer {
            name,
            labels: flags(&networks.label(&texts)?),
            texts,
        })
    };
    let references = reports.iter().map(|report| report.findings.clone());
    let reference = labelled("the radiologist's own text", references.collect())?;
    let mut writers = vec![labelled("bundle", texts.clone())?];
    let (trained, _) = of_split(TRAIN);
    if !trained.is_empty() {
        let frequent = vec![most_frequent(&trained).to_owned(); reports.len()];
        writers.push(labelled("most frequent training report", frequent)?);
    }
    let patients: Vec<&String> = reports.iter().map(ReportRow::drawn_with).collect();
    let resamples = Bootstrap::new(&patients, evaluator.quality.seed, "pairs");
    let requested: Vec<_> = predicted.iter().map(statements::requested).collect();
    let tables = vec![
        wording(&writers, &reference, &resamples),
        content(&writers, &reference, &reports, &resamples),
        statements::table(&requested, [("bundle", &texts[..])], &resamples),
    ];
    let written = reports.iter().zip(&predicted).zip(&texts);
    let written: Vec<GeneratedText> = written
        .map(|((report, findings), text)| GeneratedText {
            part: QualityPart::Pairs,
            id: report.study.clone(),
            findings: findings.text.clone(),
            asked: None,
            reference: Some(report.findings.clone()),
            text: text.clone(),
            right: None,
        })
        .collect();
    evaluator.texts.extend(written);
    let mut notes = vec![
        format!(
            "{}. The request names what the bundle's own classifier finds.",
            counted(
                reports.len(),
                "image with the radiologist's text about it",
                "images with the radiologist's text about them"
            )
        ),
        "Scores as under reports from labels; tags are the labels of the table. Labels of texts are those of the bundle's own \
         CheXbert, and as wrong as it is."
            .to_owned(),
        statements::NOTE.to_owned(),
    ];
    if left_out > 0 {
        notes.push(format!(
            "{} no findings section, or no image: not scored.",
            counted(left_out, "row of the split has", "rows of the split have")
        ));
    }
    Ok(ScoreSection {
        reliability: Vec::new(),
        cautions: content_cautions(&reference, &reports, &resamples),
        title: "Reports of images".into(),
        notes,
        tables,
    })
}
