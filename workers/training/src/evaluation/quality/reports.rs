//! Reports written from the labels of real reports, beside those reports.

use std::collections::BTreeMap;

use radialog_schemas::counted;

use super::agreement::{
    COMMON, Flags, LabelPair, few, mean, measured_macro_f1, measured_micro_f1, with_both_answers,
};
use super::score_table::{ScoreCell, ScoreSection, ScoreTable};
use super::statements;
use super::studies::stated;
use super::{Evaluator, GeneratedText, QualityPart, flags};
use crate::error::TrainingError;
use crate::evaluation::bootstrap::Bootstrap;
use crate::evaluation::text_scores::{BleuCounts, rouge_l};
use crate::evaluation::words::words;
use crate::prepare::ReportRow;

/// One way to come by a report for each study.
pub(super) struct Writer {
    pub(super) name: &'static str,
    pub(super) texts: Vec<String>,
    pub(super) labels: Vec<Flags>,
}

pub(super) fn measure(evaluator: &mut Evaluator<'_>) -> Result<ScoreSection, TrainingError> {
    let written = evaluator.written_from_labels()?;
    let model = Writer {
        name: "bundle",
        texts: written.iter().map(|study| study.text.clone()).collect(),
        labels: flags(&written.iter().map(|study| study.labels).collect::<Vec<_>>()),
    };
    let texts: Vec<GeneratedText> = written
        .iter()
        .map(|study| GeneratedText {
            part: QualityPart::Report,
            id: study.report.study.clone(),
            findings: study.findings.clone(),
            asked: None,
            reference: Some(study.report.findings.clone()),
            text: study.text.clone(),
            right: None,
        })
        .collect();
    let reports: Vec<ReportRow> = written.iter().map(|study| study.report.clone()).collect();
    evaluator.texts.extend(texts);

    let trained = evaluator.trained_reports()?;
    let labelled = |name, texts: Vec<String>| -> Result<Writer, TrainingError> {
        Ok(Writer {
            name,
            labels: flags(&evaluator.networks.label(&texts)?),
            texts,
        })
    };
    let frequent = vec![most_frequent(&trained).to_owned(); reports.len()];
    let nearest = reports
        .iter()
        .map(|report| nearest(&trained, &stated(report)).to_owned())
        .collect();
    let references = reports
        .iter()
        .map(|report| report.findings.clone())
        .collect();
    let mut writers = vec![model];
    if !trained.is_empty() {
        writers.push(labelled("most frequent training report", frequent)?);
        writers.push(labelled("nearest training report", nearest)?);
    }
    let reference = labelled("the radiologist's own text", references)?;

    let patients: Vec<&String> = reports.iter().map(ReportRow::drawn_with).collect();
    let resamples = Bootstrap::new(&patients, evaluator.quality.seed, "reports");
    let wording = wording(&writers, &reference, &resamples);
    let content = content(&writers, &reference, &reports, &resamples);
    let asked: Vec<Flags> = reports.iter().map(stated).collect();
    let all = writers.iter().chain([&reference]);
    let all = all.map(|writer| (writer.name, &writer.texts[..]));
    let statements = statements::table(&asked, all, &resamples);
    let mut notes = vec![
        format!(
            "{}. The request names the report's own positive labels and brings an image of the same split, paired by \
             labels as weakly as in training: it is no picture of this patient and says nothing that the request does not.",
            counted(reports.len(), "report", "reports")
        ),
        match trained.is_empty() {
            false => "Nearest training report: the first with the fewest different positive labels.",
            true => "The table has no training reports: there are no baselines.",
        }
        .to_owned(),
        statements::NOTE.to_owned(),
        "BLEU of the corpus and ROUGE-L as pycocoevalcap computes them, over lower-case words and punctuation marks. \
         Label F1: labels of the text by the bundle's own CheXbert, macro over the findings that some of the reports \
         have and others have not, by their texts or by their tags, and micro over the five common ones (Atelectasis, \
         Cardiomegaly, Consolidation, Edema, Pleural Effusion)."
            .to_owned(),
    ];
    notes.extend(evaluator.reports()?.note());
    Ok(ScoreSection {
        reliability: Vec::new(),
        cautions: content_cautions(&reference, &reports, &resamples),
        title: "Reports from labels".into(),
        notes,
        tables: vec![wording, content, statements],
    })
}

/// The first of the texts that occur most often.
pub(super) fn most_frequent(reports: &[ReportRow]) -> &str {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for report in reports {
        *counts.entry(&report.findings).or_default() += 1;
    }
    let most = counts.values().max().copied().unwrap_or_default();
    reports
        .iter()
        .map(|report| report.findings.as_str())
        .find(|text| counts[text] == most)
        .unwrap_or_default()
}

/// The first of the reports with the fewest different labels.
fn nearest<'a>(reports: &'a [ReportRow], flags: &Flags) -> &'a str {
    let distance = |report: &&ReportRow| {
        stated(report)
            .iter()
            .zip(flags)
            .filter(|(a, b)| a != b)
            .count()
    };
    reports
        .iter()
        .min_by_key(distance)
        .map_or("", |report| &report.findings)
}

pub(super) fn wording(writers: &[Writer], reference: &Writer, resamples: &Bootstrap) -> ScoreTable {
    let columns = ["words", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"];
    let mut table = ScoreTable::new("wording, beside the radiologist's text", &columns);
    let references: Vec<Vec<String>> = reference.texts.iter().map(|text| words(text)).collect();
    for writer in writers {
        let texts: Vec<Vec<String>> = writer.texts.iter().map(|text| words(text)).collect();
        let counts: Vec<BleuCounts> = texts
            .iter()
            .zip(&references)
            .map(|(text, reference)| BleuCounts::of(text, reference))
            .collect();
        let rouge: Vec<f64> = texts
            .iter()
            .zip(&references)
            .map(|(text, reference)| rouge_l(text, reference))
            .collect();
        let bleu = |order: usize| {
            let of = |at: &[usize]| {
                let mut sum = BleuCounts::default();
                at.iter().for_each(|&study| sum.add(&counts[study]));
                Some(sum.scores()[order])
            };
            ScoreCell::from(resamples.measure(of))
        };
        let length =
            resamples.measure(|at| mean(at.iter().map(|&study| texts[study].len() as f64)));
        let rouge = resamples.measure(|at| mean(at.iter().map(|&study| rouge[study])));
        table.row(
            writer.name,
            [
                length.into(),
                bleu(0),
                bleu(1),
                bleu(2),
                bleu(3),
                rouge.into(),
            ],
        );
    }
    table
}

pub(super) fn content(
    writers: &[Writer],
    reference: &Writer,
    reports: &[ReportRow],
    resamples: &Bootstrap,
) -> ScoreTable {
    let columns = [
        "macro F1 text",
        "micro F1 text",
        "macro F1 tags",
        "micro F1 tags",
    ];
    let mut table = ScoreTable::new(
        "labels of the text, beside those of the radiologist's text and beside its tags",
        &columns,
    );
    let tags: Vec<Flags> = reports.iter().map(stated).collect();
    let cells = |truths: &[Flags], prediction: &[Flags]| {
        let pairs: Vec<LabelPair> = truths
            .iter()
            .zip(prediction)
            .map(|(&truth, &prediction)| LabelPair::known(truth, prediction))
            .collect();
        let truths: Vec<_> = pairs.iter().map(|pair| pair.truth).collect();
        let scored = with_both_answers(&truths);
        [
            measured_macro_f1(&pairs, &scored, resamples),
            measured_micro_f1(&pairs, &COMMON, resamples),
        ]
    };
    for writer in writers {
        let text = cells(&reference.labels, &writer.labels);
        table.row(
            writer.name,
            text.into_iter().chain(cells(&tags, &writer.labels)),
        );
    }
    let itself = [ScoreCell::Undefined, ScoreCell::Undefined];
    table.row(
        reference.name,
        itself.into_iter().chain(cells(&tags, &reference.labels)),
    );
    table
}

/// Which findings the scores of [`content`] have too little of.
pub(super) fn content_cautions(
    reference: &Writer,
    reports: &[ReportRow],
    resamples: &Bootstrap,
) -> Vec<String> {
    let tags: Vec<Flags> = reports.iter().map(stated).collect();
    let truths = [
        ("labels of the radiologist's text", &reference.labels),
        ("tags", &tags),
    ];
    let of = |(name, truths): (&str, &Vec<Flags>)| {
        let pairs = truths.iter().map(|&truth| LabelPair::known(truth, truth));
        few(name, &pairs.collect::<Vec<_>>(), resamples)
    };
    truths.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use radialog_schemas::{Finding, Label};

    use super::*;

    fn report(text: &str, positive: &[Finding]) -> ReportRow {
        let labels = Finding::ALL.map(|f| {
            if positive.contains(&f) {
                Label::Positive
            } else {
                Label::Blank
            }
        });
        let (study, split) = (String::new(), "train".to_owned());
        let (impression, indication, image) = Default::default();
        ReportRow {
            study,
            split,
            findings: text.into(),
            impression,
            indication,
            image,
            patient: None,
            labels,
        }
    }

    #[test]
    fn a_finding_that_no_report_has_is_in_no_mean() {
        let reports = [
            report("a", &[Finding::Edema]),
            report("b", &[Finding::Fracture]),
        ];
        let writer = |name| Writer {
            name,
            texts: Vec::new(),
            labels: reports.iter().map(stated).collect(),
        };
        let resamples = Bootstrap::new(&["p", "q"], 1, "test");
        let table = content(&[writer("bundle")], &writer("text"), &reports, &resamples);
        // Each of the two findings is one patient's.
        for column in ["macro F1 text", "macro F1 tags", "micro F1 tags"] {
            assert_eq!(table.rows[0].scores[column], ScoreCell::Fixed(1.0));
        }
        let cautions = content_cautions(&writer("text"), &reports, &resamples);
        let named = "tags: fewer than 10 patients with, or without, Edema (1), Fracture (1): ";
        assert!(
            cautions.len() == 2 && cautions[1].starts_with(named),
            "{cautions:?}"
        );
    }

    #[test]
    fn baselines_take_the_first_of_equals() {
        let reports = [
            report("a", &[Finding::Edema]),
            report("b", &[]),
            report("c", &[Finding::Edema]),
            report("b", &[]),
            report("a", &[Finding::Edema, Finding::Fracture]),
        ];
        assert_eq!(most_frequent(&reports), "a");
        let flags = |positive: &[Finding]| stated(&report("", positive));
        assert_eq!(nearest(&reports, &flags(&[Finding::Edema])), "a");
        assert_eq!(nearest(&reports, &flags(&[])), "b");
        assert_eq!(nearest(&[], &flags(&[])), "");
    }
}
