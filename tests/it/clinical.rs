//! Scores of labels against those that scikit-learn gave for the original's evaluation (golden case 08, `labels.json`): macro,
//! micro and of each label, degenerate columns included (a label never present, never predicted, neither). What is recorded and
//! not computed is named here; a recording of anything else fails.

use anyhow::{Context, Error, Result, bail, ensure};
use radialog_schemas::{Finding, Label};
use radialog_training::LabelCounts;
use radialog_training::evaluation::classification::Predictions;
use radialog_training::evaluation::clinical::UncertainAs;
use radialog_training::evaluation::follow_ups::FindingCounts;
use serde_json::Value;

const RECORDED: &str = include_str!("../fixtures/golden/08_metrics/labels.json");
const TOLERANCE: f64 = 1e-9;
/// Of the curve of probabilities, which are single numbers here and double ones there.
const SINGLE: f64 = 1e-6;
/// What a case was computed from.
const INPUTS: [&str; 6] = ["name", "y_true", "y_pred", "y_prob", "raw_true", "raw_pred"];
/// Recorded, and computed nowhere here: averages that scikit-learn has, too. The original's program prints none of them, and no
/// protocol of `evaluate report` has one.
const NOT_COMPUTED: [&str; 14] = [
    "macro/jaccard",
    "micro/jaccard",
    "samples/jaccard",
    "samples/precision",
    "samples/recall",
    "weighted/f1",
    "weighted/jaccard",
    "weighted/precision",
    "weighted/recall",
    "accuracy_exact_rows",
    "auc_micro_labels",
    "auc_micro_probs",
    "auc_flat_labels",
    "auc_flat_probs",
];

fn flags(row: &Value) -> [bool; 14] {
    let cells: Vec<bool> = row
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| cell.as_f64() == Some(1.0))
        .collect();
    cells.try_into().unwrap()
}

/// What the original makes of a row of CheXbert's table: blank and uncertain are not there.
fn mapped(row: &Value) -> Result<Vec<bool>> {
    let cells = row.as_array().context("a row of labels")?;
    let is_present = |cell: &Value| -> Result<bool> {
        let label = match cell.as_f64() {
            None => Label::Blank,
            Some(value) => value.to_string().parse().map_err(Error::msg)?,
        };
        Ok(UncertainAs::default().is_present(label))
    };
    cells.iter().map(is_present).collect()
}

/// Checks all matrices of labels; returns how many there are.
pub(crate) fn check(recorded: &Value) -> Result<usize> {
    let cases = recorded.as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(!cases.is_empty(), "no matrix of labels");
    for case in cases {
        check_case(case).with_context(|| case["name"].to_string())?;
    }
    Ok(cases.len())
}

fn check_case(case: &Value) -> Result<()> {
    let rows = |name: &str| case[name].as_array().cloned().unwrap_or_default();
    let (truths, said, probabilities) = (rows("y_true"), rows("y_pred"), rows("y_prob"));
    for (raw, rows_of_it) in [("raw_true", &truths), ("raw_pred", &said)] {
        for (raw, row) in rows(raw).iter().zip(rows_of_it) {
            ensure!(mapped(raw)? == flags(row), "{raw} is not {row}");
        }
    }
    let (mut counts, mut answers) = (LabelCounts::default(), FindingCounts::default());
    for (truth, said) in truths.iter().zip(&said) {
        counts.add(&flags(truth), &flags(said));
        answers.add(&flags(truth).map(Some), &flags(said));
    }
    let (scores, answers) = (counts.scores(), answers.scores());
    let mut computed = vec![
        ("macro/f1", Some(scores.macro_f1)),
        ("macro/precision", Some(scores.macro_precision)),
        ("macro/recall", Some(scores.macro_recall)),
        ("micro/f1", Some(scores.micro.f1)),
        ("micro/precision", Some(scores.micro.precision)),
        ("micro/recall", Some(scores.micro.recall)),
        ("samples/f1", Some(scores.sample_f1)),
        ("accuracy_flat", Some(scores.accuracy)),
        ("accuracy_mean_of_columns", Some(scores.accuracy)),
        ("macro/f1", Some(answers.macro_f1)),
        ("macro/precision", Some(answers.macro_precision)),
        ("macro/recall", Some(answers.macro_recall)),
        ("samples/f1", Some(answers.sample_f1)),
        ("accuracy_flat", Some(answers.accuracy)),
        (
            "auc_macro_labels",
            (answers.auc != -1.0).then_some(answers.auc),
        ),
    ];
    if !probabilities.is_empty() {
        computed.push(("auc_macro_probs", macro_auc(&truths, &probabilities)?));
    }
    for (key, ours) in &computed {
        let recorded = case.pointer(&format!("/{key}"));
        let recorded = recorded.with_context(|| format!("no '{key}'"))?;
        let tolerance = match *key {
            "auc_macro_probs" => SINGLE,
            _ => TOLERANCE,
        };
        close(key, *ours, recorded, tolerance)?;
    }
    let each = &case["per_class"];
    for (class, (finding, rates)) in scores.labels.iter().enumerate() {
        for (name, ours) in [
            ("f1", rates.f1),
            ("precision", rates.precision),
            ("recall", rates.recall),
        ] {
            let what = format!("{name} of {finding}");
            close(&what, Some(ours), &each[name][class], TOLERANCE)?;
        }
    }
    for key in keys(case) {
        let is_computed = key.starts_with("per_class/")
            || computed.iter().any(|(computed, _)| *computed == key)
            || INPUTS.contains(&key.as_str());
        ensure!(
            is_computed || NOT_COMPUTED.contains(&key.as_str()),
            "'{key}' is recorded, and neither computed nor named as not computed"
        );
    }
    Ok(())
}

/// The mean area under the curves of probabilities; none unless each finding has both answers.
fn macro_auc(truths: &[Value], probabilities: &[Value]) -> Result<Option<f64>> {
    let mut predictions = Predictions::default();
    for (truth, row) in truths.iter().zip(probabilities) {
        let row: Vec<f32> = serde_json::from_value(row.clone())?;
        let truth = flags(truth).map(|is_there| f32::from(u8::from(is_there)));
        predictions.add(&row, &truth, &[1.0; 14]);
    }
    let aucs = predictions.aucs();
    let sum: f64 = aucs.iter().map(|(_, auc)| auc).sum();
    Ok((aucs.len() == Finding::ALL.len()).then(|| sum / aucs.len() as f64))
}

fn close(what: &str, ours: Option<f64>, recorded: &Value, tolerance: f64) -> Result<()> {
    match (ours, recorded.as_f64()) {
        (Some(ours), Some(recorded)) if (ours - recorded).abs() < tolerance => Ok(()),
        // Recorded as null where it is not defined.
        (None, None) if recorded.is_null() => Ok(()),
        (ours, _) => bail!("{what}: {ours:?} instead of {recorded}"),
    }
}

/// The names of what a case has recorded, `group/name` within a group.
fn keys(case: &Value) -> Vec<String> {
    let of = |(name, value): (&String, &Value)| match value.as_object() {
        Some(group) => group.keys().map(|key| format!("{name}/{key}")).collect(),
        None => vec![name.clone()],
    };
    case.as_object()
        .into_iter()
        .flatten()
        .flat_map(of)
        .collect()
}

#[test]
fn clinical_scores_equal_the_recorded_ones() -> Result<()> {
    check(&serde_json::from_str(RECORDED)?).map(|_| ())
}

#[test]
fn what_is_recorded_and_not_known_fails() -> Result<()> {
    let mut recorded: Value = serde_json::from_str(RECORDED)?;
    recorded[0]["macro"]["kappa"] = 0.5.into();
    let error = format!("{:#}", check(&recorded).expect_err("an unknown score"));
    ensure!(error.contains("'macro/kappa' is recorded"), "{error}");
    Ok(())
}
