#![allow(clippy::unwrap_used)]
use super::*;

fn row(study: &str, findings: &str, impression: &str, positive: &[Finding]) -> ReportRow {
    ReportRow {
        study: study.to_owned(),
        split: "train".to_owned(),
        findings: findings.to_owned(),
        impression: impression.to_owned(),
        indication: String::new(),
        image: String::new(),
        labels: Finding::ALL.map(|finding| if positive.contains(&finding) { Label::Positive } else { Label::Blank }),
    }
}

fn reports() -> Vec<ReportRow> {
    vec![
        row(
            "R1",
            "The heart is enlarged. No pneumothorax. The bones are osteopenic.",
            "Cardiomegaly.",
            &[Finding::Cardiomegaly],
        ),
        row(
            "R2",
            "Small left effusion. The heart is normal in size. No edema.",
            "See above.",
            &[Finding::PleuralEffusion],
        ),
        row("R3", "The lungs are clear.", "", &[Finding::NoFinding]),
    ]
}

fn tasks(seed: u64) -> Vec<TaskSample> {
    let (reports, task_prompts) = (reports(), TaskPrompts::own().unwrap());
    ReportTasks { reports: &reports, task_prompts: &task_prompts, corrections: 20, seed }.corrections().unwrap()
}

#[test]
fn a_summary_is_the_impression_where_it_speaks_for_itself() {
    let (reports, task_prompts) = (reports(), TaskPrompts::own().unwrap());
    let made = ReportTasks { reports: &reports, task_prompts: &task_prompts, corrections: 1, seed: 1 }.summaries();
    assert_eq!(made.len(), 1);
    assert_eq!(
        (made[0].dicom.as_str(), made[0].output.as_str(), made[0].task_type.as_str()),
        ("R1", "Cardiomegaly.", "SU")
    );
}

#[test]
fn a_correction_answers_with_the_right_report_and_names_what_was_changed() {
    let made = tasks(3);
    assert!(
        made.iter()
            .any(|sample| sample.incorrect_report.as_deref() == Some("No pneumothorax. The bones are osteopenic."))
    );
    for sample in &made {
        let wrong = sample.incorrect_report.as_deref().unwrap();
        assert_eq!(sample.output, sample.gt_report);
        assert_ne!(wrong, sample.output);
        let adds = sample.dicom == "R1" && !wrong.contains("The heart is enlarged.");
        assert_eq!(adds, sample.dicom == "R1" && sample.task.contains("Cardiomegaly"), "{sample:?}");
        let removes = sample.dicom == "R1" && wrong.contains("Small left effusion.");
        assert_eq!(removes, sample.dicom == "R1" && sample.task.contains("Pleural Effusion"), "{sample:?}");
        assert!(!sample.task.contains('<'), "{}", sample.task);
    }
}

#[test]
fn a_sentence_that_denies_what_is_put_in_goes() {
    let made = tasks(3);
    let wrong: Vec<&str> =
        made.iter().filter(|sample| sample.dicom == "R2").filter_map(|s| s.incorrect_report.as_deref()).collect();
    let enlarged: Vec<_> = wrong.iter().filter(|wrong| wrong.contains("The heart is enlarged.")).collect();
    assert!(!enlarged.is_empty());
    assert!(enlarged.iter().all(|wrong| !wrong.contains("normal in size")));
}

#[test]
fn the_seed_decides() {
    assert_eq!(tasks(3), tasks(3));
    assert_ne!(tasks(3), tasks(4));
}
