use super::*;

fn row(study: &str, findings: &str, impression: &str, positive: &[Finding]) -> ReportRow {
    ReportRow {
        patient: None,
        study: study.to_owned(),
        split: "train".to_owned(),
        findings: findings.to_owned(),
        impression: impression.to_owned(),
        indication: String::new(),
        image: String::new(),
        labels: Finding::ALL.map(|finding| {
            if positive.contains(&finding) {
                Label::Positive
            } else {
                Label::Blank
            }
        }),
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
    ReportTasks {
        reports: &reports,
        task_prompts: &task_prompts,
        corrections: 20,
        seed,
    }
    .corrections()
    .unwrap()
}

#[test]
fn a_summary_is_the_impression_where_it_speaks_for_itself() {
    let (reports, task_prompts) = (reports(), TaskPrompts::own().unwrap());
    let made = ReportTasks {
        reports: &reports,
        task_prompts: &task_prompts,
        corrections: 1,
        seed: 1,
    }
    .summaries();
    assert_eq!(made.len(), 1);
    assert_eq!(
        (
            made[0].dicom.as_str(),
            made[0].output.as_str(),
            made[0].task_type.as_str()
        ),
        ("R1", "Cardiomegaly.", "SU")
    );
}

/// Wrong report, request and answer.
fn parts(sample: &TaskSample) -> (&str, &str, &str) {
    (
        sample.incorrect_report.as_deref().unwrap(),
        &sample.task,
        &sample.output,
    )
}

#[test]
fn what_a_report_states_is_taken_out_and_comes_back_at_its_end() {
    let made = tasks(3);
    let (whole, without) = (
        "The heart is enlarged. No pneumothorax. The bones are osteopenic.",
        "No pneumothorax. The bones are osteopenic.",
    );
    let at_its_end = format!("{without} The heart is enlarged.");
    let find = |wrong: &str, right: &str| {
        let fits = |sample: &&TaskSample| (parts(sample).0, parts(sample).2) == (wrong, right);
        let sample = made.iter().find(fits).unwrap();
        assert_eq!(sample.gt_report, whole);
        assert!(sample.task.contains("Cardiomegaly"), "{}", sample.task);
        sample.incorrect_findings.clone().unwrap()
    };
    assert_eq!(find(whole, without), [Finding::Cardiomegaly]);
    assert_eq!(find(without, &at_its_end), []);
}

#[test]
fn sentences_of_other_reports_are_put_in_and_taken_out_and_what_denies_them_goes() {
    let made = tasks(3);
    let of = |study: &str| {
        made.iter()
            .filter(move |sample| sample.dicom == study)
            .map(parts)
            .collect::<Vec<_>>()
    };
    // An enlarged heart is put into a report that says that it is normal.
    let (whole, without) = (
        "Small left effusion. The heart is normal in size. No edema.",
        "Small left effusion. No edema.",
    );
    let with = format!("{without} The heart is enlarged.");
    let second = of("R2");
    assert!(
        second
            .iter()
            .any(|&(wrong, task, right)| (wrong, right) == (whole, &with)
                && task.contains("Cardiomegaly"))
    );
    assert!(
        second
            .iter()
            .any(|&(wrong, task, right)| (wrong, right) == (&with, without)
                && task.contains("Cardiomegaly"))
    );
    // Both at once: the effusion is missed, the heart is wrong.
    let both = second
        .iter()
        .find(|(_, task, _)| task.contains("Cardiomegaly") && task.contains("Pleural Effusion"));
    let &(wrong, _, right) = both.unwrap();
    assert_eq!(
        (wrong, right),
        (
            "No edema. The heart is enlarged.",
            "No edema. Small left effusion."
        )
    );
    assert!(
        made.iter()
            .all(|sample| !sample.task.contains('<') && parts(sample).0 != parts(sample).2)
    );
}

#[test]
fn the_seed_decides() {
    assert_eq!(tasks(3), tasks(3));
    assert_ne!(tasks(3), tasks(4));
}
