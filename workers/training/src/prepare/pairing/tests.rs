use std::fs;
use std::path::Path;

use super::*;

fn labels(positive: &[Finding], blank: &[Finding]) -> FindingLabels {
    Finding::ALL.map(
        |finding| match (positive.contains(&finding), blank.contains(&finding)) {
            (true, _) => Label::Positive,
            (_, true) => Label::Blank,
            _ => Label::Negative,
        },
    )
}

fn report(study: usize, split: &str, positive: &[Finding]) -> ReportRow {
    ReportRow {
        patient: None,
        study: format!("R{study}"),
        split: split.to_owned(),
        findings: "Text.".to_owned(),
        impression: String::new(),
        indication: String::new(),
        image: String::new(),
        labels: labels(positive, &[]),
    }
}

/// A table of images, each with its side and positive findings; the source has no class for fractures.
fn images(dir: &Path, rows: &[(&str, &[Finding])]) -> Pairing {
    let rows: Vec<crate::prepare::tables::image_table::ImageRow> = (0..)
        .zip(rows)
        .map(
            |(number, (split, positive))| crate::prepare::tables::image_table::ImageRow {
                image: format!("{number}.png"),
                split: (*split).to_owned(),
                labels: labels(positive, &[Finding::Fracture]),
            },
        )
        .collect();
    for row in &rows {
        fs::write(dir.join(&row.image), "").unwrap();
    }
    let table = dir.join("labels.csv");
    crate::prepare::tables::image_table::write_image_table(&table, &rows).unwrap();
    Pairing {
        images: vec![(table, dir.to_owned())],
        seed: 7,
    }
}

fn names(pairs: &[ReportRow]) -> Vec<&str> {
    pairs
        .iter()
        .map(|row| row.image.rsplit('/').next().unwrap())
        .collect()
}

#[test]
fn a_report_gets_an_image_of_its_side_with_the_same_findings() {
    use Finding::*;
    let dir = tempfile::tempdir().unwrap();
    let pairing = images(
        dir.path(),
        &[
            ("train", &[Edema]),
            ("test", &[Edema]),
            ("train", &[NoFinding]),
            ("train", &[Edema, Pneumonia]),
            ("train", &[]),
        ],
    );
    let reports = [
        report(1, "train", &[Edema]),
        report(2, "test", &[NoFinding]),
        report(3, "train", &[NoFinding]),
        report(4, "train", &[Edema, Fracture]),
        report(5, "train", &[Pneumonia]),
        report(6, "train", &[Fracture]),
        report(7, "elsewhere", &[Edema]),
    ];
    let (pairs, summary) = pairing.pair(&reports).unwrap();
    assert_eq!(
        names(&pairs),
        ["0.png", "1.png", "2.png", "0.png", "3.png", "4.png"]
    );
    assert_eq!(
        (
            summary["train"].reports,
            summary["train"].exact,
            summary["train"].used
        ),
        (5, 4, 4)
    );
    assert_eq!(
        pairs[0].labels, reports[0].labels,
        "the labels stay those of the report"
    );
}

#[test]
fn images_are_used_evenly_and_the_seed_decides() {
    let dir = tempfile::tempdir().unwrap();
    let edema: (&str, &[Finding]) = ("train", &[Finding::Edema]);
    let pairing = images(dir.path(), &[edema; 5]);
    let reports: Vec<ReportRow> = (0..20)
        .map(|study| report(study, "train", &[Finding::Edema]))
        .collect();
    let (pairs, summary) = pairing.pair(&reports).unwrap();
    assert_eq!((summary["train"].used, summary["train"].most), (5, 4));
    assert_eq!(names(&pairs), names(&pairing.pair(&reports).unwrap().0));
    let other = Pairing { seed: 8, ..pairing };
    assert_ne!(names(&pairs), names(&other.pair(&reports).unwrap().0));
}

#[test]
fn an_image_that_is_not_there_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let pairing = images(dir.path(), &[("train", &[Finding::Edema])]);
    fs::remove_file(dir.path().join("0.png")).unwrap();
    let error = pairing
        .pair(&[report(1, "train", &[])])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 2") && error.contains("0.png"),
        "{error}"
    );
}
