//! Clinical scores against those that scikit-learn gave for the original's evaluation (golden case 08, `labels.json`).

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

#[test]
fn clinical_scores_equal_the_recorded_ones() {
    let cases: Vec<Value> = serde_json::from_str(RECORDED).unwrap();
    assert!(!cases.is_empty());
    for case in &cases {
        let (mut counts, mut answers) = (LabelCounts::default(), FindingCounts::default());
        let rows = |name: &str| case[name].as_array().unwrap().clone();
        for (truth, predicted) in rows("y_true").iter().zip(rows("y_pred")) {
            counts.add(&flags(truth), &flags(&predicted));
            answers.add(&flags(truth).map(Some), &flags(&predicted));
        }
        let scores = counts.scores();
        let check = |what: &str, ours: f64, recorded: &Value| {
            let recorded = recorded.as_f64().unwrap();
            assert!(
                (ours - recorded).abs() < TOLERANCE,
                "{} {what}: {ours} instead of {recorded}",
                case["name"]
            );
        };
        check("macro F1", scores.macro_f1, &case["macro"]["f1"]);
        check(
            "macro precision",
            scores.macro_precision,
            &case["macro"]["precision"],
        );
        check(
            "macro recall",
            scores.macro_recall,
            &case["macro"]["recall"],
        );
        check("sample F1", scores.sample_f1, &case["samples"]["f1"]);
        check("accuracy", scores.accuracy, &case["accuracy_flat"]);
        let (answers, macro_of) = (answers.scores(), &case["macro"]);
        check("F1 of answers", answers.macro_f1, &macro_of["f1"]);
        check(
            "precision of answers",
            answers.macro_precision,
            &macro_of["precision"],
        );
        check(
            "recall of answers",
            answers.macro_recall,
            &macro_of["recall"],
        );
        check(
            "sample F1 of answers",
            answers.sample_f1,
            &case["samples"]["f1"],
        );
        check(
            "accuracy of answers",
            answers.accuracy,
            &case["accuracy_flat"],
        );
        // Not recorded where it is not defined.
        let auc = case["auc_macro_labels"].as_f64().unwrap_or(-1.0);
        check("AUC of answers", answers.auc, &auc.into());
        for ((finding, ours), recorded) in scores
            .f1
            .iter()
            .zip(case["per_class"]["f1"].as_array().unwrap())
        {
            check(finding.name(), *ours, recorded);
        }
    }
}
