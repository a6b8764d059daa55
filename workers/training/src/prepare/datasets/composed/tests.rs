use std::fs;

use radialog_schemas::Label;
use serde_json::Value;

use super::*;
use crate::prepare::weak_labels::sentences;

fn sample(image: &str, report: &str, positive: &[Finding]) -> LabelledReport {
    LabelledReport {
        patient: None,
        dicom_id: image.into(),
        note_file: format!("{image}.txt"),
        findings: report.into(),
        labels: Finding::ALL.map(|finding| match positive.contains(&finding) {
            true => Label::Positive,
            false => Label::Blank,
        }),
    }
}

#[test]
fn every_list_has_words_and_no_finding_is_without() {
    let wordings = Wordings::own().unwrap();
    for finding in &Finding::ALL[1..] {
        let of = wordings.of(*finding);
        assert_eq!(of.name, *finding);
        for list in [&of.states, &of.there, &of.none, &of.patient, &of.asked] {
            assert!(!list.is_empty(), "{finding}");
        }
    }
    assert!(wordings.texts().all(|text| !text.is_empty()));
}

#[test]
fn a_composed_report_says_its_findings_and_no_other() {
    // The weak rule is no part of how reports are composed.
    let (wordings, rule) = (Wordings::own().unwrap(), WeakLabeler::own().unwrap());
    let random = &mut Random::stream(3, "test");
    let mut texts = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        let found = drawn(&[Finding::Edema], random);
        let report = Writer::new(&wordings, &found).report(random);
        for sentence in sentences(&report.text()) {
            for (finding, label) in rule.sentence(sentence) {
                // The rule takes a device for what it is and "infiltrate" for an opacity.
                if label == Label::Positive && !found.contains(&finding) {
                    let is_part = finding == Finding::LungOpacity
                        || finding == Finding::EnlargedCardiomediastinum
                        || finding == Finding::Cardiomegaly
                        || finding == Finding::NoFinding;
                    assert!(is_part, "{finding} of {found:?}: {sentence}");
                }
            }
        }
        for finding in &found {
            assert!(!report.stating(&[*finding]).is_empty(), "{finding}");
        }
        texts.insert(report.text());
    }
    assert!(texts.len() > 1000, "{} texts", texts.len());
}

#[test]
fn a_correction_changes_what_it_says_and_leaves_the_rest() {
    use Finding::{Edema, PleuralEffusion};
    let wordings = Wordings::own().unwrap();
    let random = &mut Random::stream(4, "test");
    for _ in 0..500 {
        let found = [Edema];
        let report = Writer::new(&wordings, &found).report(random);
        let (before, put_in) = (
            report.text(),
            report.with(PleuralEffusion, &wordings).unwrap(),
        );
        assert!(
            put_in
                .text()
                .ends_with(&wordings.of(PleuralEffusion).states[0])
        );
        assert!(!put_in.stating(&[Edema]).is_empty(), "{before}");
        let back = put_in.without(PleuralEffusion, &wordings).unwrap();
        assert!(back.stating(&[PleuralEffusion]).is_empty());
        let none = report.without(Edema, &wordings).unwrap();
        assert!(none.stating(&[Edema]).is_empty());
        assert!(!none.text().is_empty(), "{before}");
    }
}

#[test]
fn a_persons_report_is_learned_where_it_says_its_labels_and_nothing_else() {
    let (wordings, rule) = (Wordings::own().unwrap(), WeakLabeler::own().unwrap());
    let is_learned = |text: &str, positive: &[Finding]| {
        Report::of_person(&sample("x", text, positive), &wordings, &rule).is_some()
    };
    let normal = "Heart size is normal. The lungs are clear. No pneumothorax.";
    assert!(is_learned(normal, &[]));
    assert!(!is_learned(normal, &[Finding::Edema]), "does not state it");
    assert!(is_learned(
        "Cardiomegaly. The lungs are clear.",
        &[Finding::Cardiomegaly]
    ));
    for other in [
        "Mild cardiomegaly. The lungs are clear.",
        "Cardiomegaly. Unchanged lungs.",
    ] {
        assert!(!is_learned(other, &[Finding::Cardiomegaly]), "{other}");
    }
}

#[test]
fn conversations_are_the_same_for_the_same_seed_and_learn_every_answer() {
    let dir = tempfile::tempdir().unwrap();
    let samples = [
        sample("one", "The heart is large.", &[Finding::Cardiomegaly]),
        sample("two", "Heart size is normal. The lungs are clear.", &[]),
    ];
    let task_prompts = TaskPrompts::own().unwrap();
    let write = |seed: u64| {
        let path = dir.path().join(format!("{seed}.json"));
        let summary = ComposedDataset {
            samples: &samples,
            prompts: &Prompts::default(),
            task_prompts: &task_prompts,
            times: 40,
            seed,
        }
        .run(&path)
        .unwrap();
        assert_eq!((summary.conversations, summary.usable), (80, 1));
        assert!(summary.by_people > 0);
        fs::read(path).unwrap()
    };
    let first = write(1);
    assert_eq!(first, write(1));
    assert_ne!(first, write(2));
    let made: Vec<Value> = serde_json::from_slice(&first).unwrap();
    for row in &made {
        let text = row["instruction"].as_str().unwrap();
        let answers = text.matches("ASSISTANT:").count() as u64;
        assert_eq!(row["answers"].as_u64(), Some(answers));
        assert!(!row["output"].as_str().unwrap().is_empty());
        assert!(!text.contains('{'), "{text}");
    }
}
