//! Clinical scores against those that scikit-learn gave for the original's evaluation (golden case 08, `labels.json`): macro, micro
//! and of each label, degenerate columns included (a label never present, never predicted, neither).

use anyhow::{Result, ensure};
use radialog_training::LabelCounts;
use radialog_training::evaluation::follow_ups::FindingCounts;
use serde_json::Value;

const RECORDED: &str = include_str!("../fixtures/golden/08_metrics/labels.json");
const TOLERANCE: f64 = 1e-9;

fn flags(row: &Value) -> [bool; 14] {
    let cells: Vec<bool> = row
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| cell.as_f64() == Some(1.0))
        .collect();
    cells.try_into().unwrap()
}

/// Checks all matrices of labels; returns how many there are.
pub(crate) fn check(recorded: &Value) -> Result<usize> {
    let cases = recorded.as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(!cases.is_empty(), "no matrix of labels");
    for case in cases {
        check_case(case)?;
    }
    Ok(cases.len())
}

fn check_case(case: &Value) -> Result<()> {
    let (mut counts, mut answers) = (LabelCounts::default(), FindingCounts::default());
    let rows = |name: &str| case[name].as_array().unwrap().clone();
    for (truth, predicted) in rows("y_true").iter().zip(rows("y_pred")) {
        counts.add(&flags(truth), &flags(&predicted));
        answers.add(&flags(truth).map(Some), &flags(&predicted));
    }
    let (scores, answers) = (counts.scores(), answers.scores());
    // Not recorded where it is not defined.
    let auc = case["auc_macro_labels"].as_f64().unwrap_or(-1.0).into();
    let close = |what: &str, ours: f64, recorded: &Value| {
        let recorded = recorded.as_f64().unwrap_or(f64::NAN);
        ensure!(
            (ours - recorded).abs() < TOLERANCE,
            "{} {what}: {ours} instead of {recorded}",
            case["name"]
        );
        Ok(())
    };
    for (what, ours, recorded) in [
        ("macro F1", scores.macro_f1, &case["macro"]["f1"]),
        (
            "macro precision",
            scores.macro_precision,
            &case["macro"]["precision"],
        ),
        (
            "macro recall",
            scores.macro_recall,
            &case["macro"]["recall"],
        ),
        ("micro F1", scores.micro.f1, &case["micro"]["f1"]),
        (
            "micro precision",
            scores.micro.precision,
            &case["micro"]["precision"],
        ),
        (
            "micro recall",
            scores.micro.recall,
            &case["micro"]["recall"],
        ),
        ("sample F1", scores.sample_f1, &case["samples"]["f1"]),
        ("accuracy", scores.accuracy, &case["accuracy_flat"]),
        ("F1 of answers", answers.macro_f1, &case["macro"]["f1"]),
        (
            "precision of answers",
            answers.macro_precision,
            &case["macro"]["precision"],
        ),
        (
            "recall of answers",
            answers.macro_recall,
            &case["macro"]["recall"],
        ),
        (
            "sample F1 of answers",
            answers.sample_f1,
            &case["samples"]["f1"],
        ),
        (
            "accuracy of answers",
            answers.accuracy,
            &case["accuracy_flat"],
        ),
        ("AUC of answers", answers.auc, &auc),
    ] {
        close(what, ours, recorded)?;
    }
    let each = &case["per_class"];
    for (class, (finding, rates)) in scores.labels.iter().enumerate() {
        close(finding.name(), rates.f1, &each["f1"][class])?;
        close(finding.name(), rates.precision, &each["precision"][class])?;
        close(finding.name(), rates.recall, &each["recall"][class])?;
    }
    Ok(())
}

#[test]
fn clinical_scores_equal_the_recorded_ones() -> Result<()> {
    check(&serde_json::from_str(RECORDED)?).map(|_| ())
}
