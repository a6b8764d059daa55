//! Files of a run that nothing has computed, for tests and benchmarks of its evaluation.

use std::fmt::Write as _;

use anyhow::Result;
use radialog_schemas::{
    ContentHash, Finding, Label, PredictedFinding, StudyId, StudyRecord, StudyStatus,
};

/// A table of labels, a row a study.
pub fn label_table<'a>(rows: impl IntoIterator<Item = (&'a str, [&'a str; 14])>) -> String {
    let names = Finding::ALL.map(Finding::name).join(",");
    let mut table = format!("study_id,{names}\n");
    for (id, cells) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{id},{}", cells.join(","));
    }
    table
}

/// A line of a run's `results.jsonl`.
///
/// # Errors
/// A record cannot be written.
pub fn line(
    study: &str,
    report: &str,
    labels: Option<[Label; 14]>,
    probabilities: Option<[f32; 14]>,
) -> Result<String> {
    let record = StudyRecord {
        study: StudyId(study.to_owned()),
        file: format!("{study}.png"),
        input: None,
        status: StudyStatus::Done,
        error: None,
        failed_stage: None,
        given: Default::default(),
        findings: probabilities.map(|all| {
            let each = Finding::ALL.into_iter().zip(all);
            each.map(|(finding, probability)| PredictedFinding {
                finding,
                probability: Some(probability),
                present: probability > 0.5,
                threshold: None,
            })
            .collect()
        }),
        warnings: Vec::new(),
        input_gate: None,
        findings_text: None,
        report: Some(report.to_owned()),
        report_lead: String::new(),
        report_complete: Some(true),
        report_tokens: None,
        consistency: None,
        comparisons: None,
        report_labels: labels.map(|all| Finding::ALL.into_iter().zip(all).collect()),
        reference_labels: None,
        reference: None,
        disagreement: None,
        other_files: Vec::new(),
        indication: None,
        split: None,
        bundle: ContentHash::of(b"bundle"),
        generation: None,
        timings: Default::default(),
    };
    Ok(serde_json::to_string(&record)? + "\n")
}
