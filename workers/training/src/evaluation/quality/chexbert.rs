//! The labeler on reports that it never saw.

use radialog_schemas::{Finding, Label};

use super::Evaluator;
use super::agreement::{
    CLASSES, LabelPair, MeasuredScore, few, measured_f1, measured_macro_f1, measured_micro_f1,
};
use super::score_table::{ScoreCell, ScoreSection, ScoreTable};
use crate::error::TrainingError;
use crate::evaluation::bootstrap::Bootstrap;
use crate::prepare::{FindingLabels, ReportRow};

pub(super) fn measure(evaluator: &Evaluator<'_>) -> Result<ScoreSection, TrainingError> {
    let of_split = evaluator.reports()?;
    let reports = &of_split.reports;
    let texts: Vec<&str> = reports
        .iter()
        .map(|report| report.findings.as_str())
        .collect();
    let prediction = evaluator.networks.label(&texts)?;
    let truths: Vec<FindingLabels> = reports.iter().map(|report| report.labels).collect();
    let patients: Vec<&String> = reports.iter().map(ReportRow::drawn_with).collect();
    let resamples = Bootstrap::new(&patients, evaluator.quality.seed, "labeler");
    let columns = [
        "positive",
        "F1",
        "F1 always",
        "negative",
        "F1 negative",
        "uncertain",
        "F1 uncertain",
    ];
    let mut table = ScoreTable::new(
        &format!("{} reports: F1 of each label", reports.len()),
        &columns,
    );
    let classes = [Label::Positive, Label::Negative, Label::Uncertain];
    let pairs = classes.map(|label| pairs(&truths, &prediction, label));
    let always: Vec<LabelPair> = pairs[0]
        .iter()
        .map(|pair| LabelPair {
            prediction: [true; CLASSES],
            ..*pair
        })
        .collect();
    let support = |pairs: &[LabelPair], finding: Finding| {
        pairs
            .iter()
            .filter(|pair| pair.truth[finding as usize] == Some(true))
            .count()
    };
    let f1_of = |pairs: &[LabelPair], finding: Finding| measured_f1(pairs, finding, &resamples);
    for finding in Finding::ALL {
        let [positive, negative, uncertain] = &pairs;
        table.row(
            finding.name(),
            [
                support(positive, finding).into(),
                f1_of(positive, finding),
                f1_of(&always, finding),
                support(negative, finding).into(),
                f1_of(negative, finding),
                support(uncertain, finding).into(),
                f1_of(uncertain, finding),
            ],
        );
    }
    let there = |pairs: &[LabelPair]| -> Vec<Finding> {
        Finding::ALL
            .into_iter()
            .filter(|&finding| support(pairs, finding) > 0)
            .collect()
    };
    let together: [(&str, MeasuredScore); 2] = [
        ("mean of those there", measured_macro_f1),
        ("all of them together", measured_micro_f1),
    ];
    for (name, score) in together {
        let of = |pairs: &[LabelPair]| {
            let there = there(pairs);
            let total = there
                .iter()
                .map(|&finding| support(pairs, finding))
                .sum::<usize>();
            (ScoreCell::from(total), score(pairs, &there, &resamples))
        };
        let [
            (positive, f1),
            (negative, f1_negative),
            (uncertain, f1_uncertain),
        ] = [0, 1, 2].map(|class| of(&pairs[class]));
        table.row(
            name,
            [
                positive,
                f1,
                of(&always).1,
                negative,
                f1_negative,
                uncertain,
                f1_uncertain,
            ],
        );
    }
    let mut notes = vec![
        "The labeler reads the findings section. Positive: against the labels of the table, which are its annotators' tags; \
         unless the table was made with --of-findings, they cover the whole report."
            .to_owned(),
        "Negative and uncertain: against a weak rule of ours that finds denials and hedges, so that these columns say how \
         well the rule was learned, not how right it is."
            .to_owned(),
        "F1 always: calling every report positive.".to_owned(),
        "A resample without a label is left out of the interval of its F1.".to_owned(),
    ];
    notes.extend(of_split.note());
    let names = ["positive", "negative", "uncertain"];
    let cautions = names.iter().zip(&pairs);
    let cautions = cautions.filter_map(|(name, pairs)| few(name, pairs, &resamples));
    Ok(ScoreSection {
        reliability: Vec::new(),
        cautions: cautions.collect(),
        title: "Labels of reports (CheXbert)".into(),
        notes,
        tables: vec![table],
    })
}

/// Whether each report has this label of each finding, and whether it was said to.
fn pairs(truths: &[FindingLabels], prediction: &[FindingLabels], label: Label) -> Vec<LabelPair> {
    let is = |labels: &FindingLabels| labels.map(|found| found == label);
    truths
        .iter()
        .zip(prediction)
        .map(|(truth, prediction)| LabelPair::known(is(truth), is(prediction)))
        .collect()
}
