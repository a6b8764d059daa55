//! Our scores beside those that were published for RaDialog, each with its source and how sure it is.

use std::fmt::Write as _;

use radialog_schemas::Finding;

use super::EvaluatedReports;
use crate::evaluation::bootstrap::Estimate;
use crate::evaluation::clinical::UncertainAs;
use crate::evaluation::report_scores::{BlankAs, MetricGroup};
use crate::evaluation::text_scores::protocol::{NEEDS_BERTSCORE, TextProtocol};

/// The scores that are published, in percent.
pub(super) const COLUMNS: [&str; 6] = [
    "CE (macro F1)",
    BERTSCORE,
    "BLEU-1",
    "BLEU-4",
    "METEOR",
    "ROUGE-L",
];
/// The one that nothing here computes.
const BERTSCORE: &str = "BERTScore";

/// Where figures are from, and how sure they are.
pub(super) const SOURCES: [&str; 4] = [
    "X: tables of two other papers that quote the paper of RaDialog v1, read there; sure.",
    "R2: the picture of results in the repository of v2, read there; sure.",
    "L: names of files and logs in the repository of v1, read there; sure.",
    "M: from memory, not verified; no value to be measured against.",
];

/// What is published besides, of which there is no score of reports to lay beside it.
pub(super) const OTHERS: [&str; 2] = [
    "The findings classifier of v1: macro F1 36 (L) on the validation split, the mean of its batches' values, which is another score than \
     that of all images at once.",
    "Correction and questions: the papers have figures, none of which could be read where this was written.",
];

/// A published figure: its value in percent, and its source.
type Figure = (&'static str, &'static str);

/// Report generation on MIMIC-CXR's test split, findings section.
#[rustfmt::skip]
const PUBLISHED: [(&str, [Figure; COLUMNS.len()]); 4] = [
    (
        "RaDialog-RG (v1, checkpoint 11200)",
        [("39.4", "M"), ("40", "M"), ("34.6", "X"), ("9.5", "X"), ("14.0", "X"), ("27.1", "X")],
    ),
    (
        "RaDialog-INS (v1, checkpoint 4800)",
        [("38.6", "M"), ("39", "M"), ("34.0", "X"), ("9.7", "X"), ("13.6", "X"), ("27.0", "X")],
    ),
    (
        "RaDialog-LLaVA-R (v2)",
        [("39.7", "R2"), ("36", "R2"), ("36.5", "R2"), ("8.8", "R2"), ("14.4", "R2"), ("25.6", "R2")],
    ),
    (
        "RaDialog-LLaVA-I (v2)",
        [("39.2", "R2"), ("37", "R2"), ("35.2", "R2"), ("9.4", "R2"), ("14.2", "R2"), ("26.7", "R2")],
    ),
];

/// Our scores, in the order of the columns.
pub(super) struct Ours {
    name: String,
    values: [Option<Estimate>; COLUMNS.len()],
}

impl Ours {
    /// Takes the scores that are published, too; none where we have none of them.
    pub(super) fn of(evaluated: &EvaluatedReports<'_>) -> Option<Self> {
        let find = |group: MetricGroup, name: &str| {
            let metric = evaluated.scores.metrics.iter().find(|metric| {
                metric.group == group && metric.finding.is_none() && metric.name.starts_with(name)
            });
            metric.and_then(|metric| metric.estimate)
        };
        let values = [
            find(MetricGroup::Labels, "macro F1"),
            None,
            find(MetricGroup::Text, "BLEU-1"),
            find(MetricGroup::Text, "BLEU-4"),
            find(MetricGroup::Text, "METEOR"),
            find(MetricGroup::Text, "ROUGE-L"),
        ];
        let there = values.iter().any(Option::is_some);
        there.then(|| Self {
            name: evaluated.name.clone(),
            values,
        })
    }
}

/// The rows of the table: ours, then the published ones.
pub(super) fn rows(ours: &Ours) -> Vec<(String, Vec<String>)> {
    let own = |(column, value): (&str, &Option<Estimate>)| match value {
        Some(estimate) => {
            let percent = |value: f64| format!("{:.1}", value * 100.0);
            let interval = match estimate.interval() {
                Some([low, high]) => format!("{}, {}", percent(low), percent(high)),
                None => "-".to_owned(),
            };
            format!("{} [{interval}]", percent(estimate.value))
        }
        None if column == BERTSCORE => "not computed here".to_owned(),
        None => "-".to_owned(),
    };
    let values = COLUMNS.into_iter().zip(&ours.values);
    let mut rows = vec![(
        format!("{} (measured here)", ours.name),
        values.map(own).collect(),
    )];
    for (name, figures) in PUBLISHED {
        let cells = figures.map(|(value, source)| format!("{value} ({source})"));
        rows.push((name.to_owned(), cells.into()));
    }
    rows
}

/// What must be known before the rows are compared.
pub(super) fn caution(evaluated: &EvaluatedReports<'_>) -> String {
    let mut caution = format!(
        "In percent; higher is better. Published: MIMIC-CXR's test split, 3,858 images with a findings section. Here: {} studies of {}; on other \
         studies the rows say nothing about which system is better.",
        evaluated.corpus.studies.len(),
        evaluated.name
    );
    let has_texts = evaluated.scores.totals.text.texts > 0;
    if has_texts && evaluated.options.protocol() != TextProtocol::Radialog2023 {
        let _ = write!(
            caution,
            " Text scores here are by {}, the published ones by radialog-2023: they cannot be compared.",
            evaluated.options.protocol().name()
        );
    }
    let (labelled, sources) = (evaluated.scores.totals.labelled, &evaluated.scores.sources);
    if labelled > 0 && !sources.is_truth_by_chexbert() {
        let _ = write!(
            caution,
            " CE here is beside {}, the published one beside CheXbert's labels of the reference texts: they cannot be compared.",
            sources.truth_words()
        );
    }
    if labelled > 0 && evaluated.options.uncertain == UncertainAs::Positive {
        caution += " CE here counts uncertain findings as positive, the published one as negative: they cannot be compared.";
    }
    let counts = &evaluated.scores.totals.reports;
    let unknown = Finding::ALL
        .iter()
        .filter(|finding| counts.known(**finding) == 0);
    let unknown = unknown.count();
    if labelled > 0 && unknown > 0 {
        let _ = write!(
            caution,
            " CE here leaves out {unknown} findings without a label, the published one is of all 14: they cannot be compared."
        );
    }
    if labelled > 0 && evaluated.options.blank == BlankAs::Unknown {
        caution += " CE here leaves out blank labels, which the published one counts as negative: they cannot be compared.";
    }
    let _ = write!(
        caution,
        " {BERTSCORE} is not computed here, since it {NEEDS_BERTSCORE}: no weights of others are shipped."
    );
    if has_texts && !evaluated.options.scorer.meteor().is_complete() {
        caution += " METEOR here matches by form and stem only (--meteor names its data), the published one by synonyms and paraphrases, too.";
    }
    caution
}

/// The evaluation in Markdown: every score, and the published ones.
pub(super) fn markdown(evaluated: &EvaluatedReports<'_>) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let mut text = format!("# Evaluation of {}\n\n", cell(&evaluated.name));
    let _ = writeln!(text, "{}.\n", evaluated.resampled());
    text += "| score | of | value | 95 % interval | better | protocol |\n| --- | --- | --- | --- | --- | --- |\n";
    for metric in &evaluated.scores.metrics {
        let of = metric.finding.map_or("all", |finding| finding.name());
        let (value, interval) = match metric.estimate {
            Some(estimate) => (format!("{:.4}", estimate.value), estimate.interval_words()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let _ = writeln!(
            text,
            "| {}: {} | {of} | {value} | {interval} | {} | {} |",
            metric.group.title(),
            metric.name,
            metric.better.word(),
            cell(&metric.protocol)
        );
    }
    if let Some(ours) = Ours::of(evaluated) {
        let _ = write!(
            text,
            "\n## Beside published figures\n\n{}\n\n| system |",
            cell(&caution(evaluated))
        );
        for column in COLUMNS {
            let _ = write!(text, " {column} |");
        }
        let _ = writeln!(text, "\n|{}", " --- |".repeat(COLUMNS.len() + 1));
        for (name, cells) in rows(&ours) {
            let _ = writeln!(text, "| {} | {} |", cell(&name), cells.join(" | "));
        }
        text.push('\n');
        for source in SOURCES.iter().chain(&OTHERS) {
            let _ = writeln!(text, "- {source}");
        }
    }
    text
}
