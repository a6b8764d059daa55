use std::path::PathBuf;

use radialog_schemas::PredictedFinding;

use super::*;

/// Images of which every second one has all findings, as a bundle sees them that assesses these.
fn images(assessed: &[Finding]) -> Vec<Predicted> {
    let image = |number: usize| {
        let image = LabelledTestImage {
            patient: format!("p{number}"),
            path: PathBuf::new(),
            table: 0,
            labels: [[Label::Positive, Label::Negative][number % 2]; CLASSES],
            groups: Vec::new(),
        };
        let findings = Finding::ALL.map(|finding| {
            let is_assessed = assessed.contains(&finding);
            PredictedFinding {
                finding,
                probability: is_assessed.then_some([0.75, 0.25][number % 2]),
                present: is_assessed && number.is_multiple_of(2),
                threshold: None,
            }
        });
        let report = FindingsReport {
            findings: findings.into(),
            text: String::new(),
            warnings: Vec::new(),
            input_gate: None,
        };
        predicted(&image, &report)
    };
    (0..24).map(image).collect()
}

#[test]
fn what_is_not_assessed_is_in_no_score_and_is_named() {
    let predicted = images(&[Finding::Edema]);
    let patients: Vec<&String> = predicted.iter().map(|image| &image.patient).collect();
    let resamples = Bootstrap::new(&patients, 1, "test");
    let truths: Vec<_> = predicted.iter().map(|image| image.pair.truth).collect();
    let classes = with_both_answers(&truths);
    assert_eq!(classes, [Finding::Edema]);
    let table = each_finding("table", &predicted, None, &resamples);
    let row = |finding: Finding| {
        let row = table.rows.iter().find(|row| row.name == finding.name());
        let scores = &row.unwrap().scores;
        ["known", "positive", "AUC", "Brier"].map(|column| match scores[column] {
            ScoreCell::Count(count) => Some(count as f64),
            ScoreCell::Measured(of) => Some(of.value),
            ScoreCell::Fixed(of) => Some(of),
            ScoreCell::Undefined => None,
        })
    };
    assert_eq!(
        row(Finding::Edema),
        [Some(24.0), Some(12.0), Some(1.0), Some(0.0625)]
    );
    assert_eq!(row(Finding::Fracture), [Some(24.0), Some(12.0), None, None]);
    let note = not_assessed("table", &predicted).unwrap();
    assert!(
        note.contains("Fracture") && !note.contains("Edema"),
        "{note}"
    );
    assert_eq!(predicted.iter().flat_map(answers).count(), 24);
    assert_eq!(not_assessed("table", &images(&Finding::ALL)), None);
}
