//! From facts and stored outputs to one line of `results.jsonl`.

use std::collections::BTreeMap;

use futures::future::join3;
use radialog_runtime::objects::{ObjectError, Objects};
use radialog_schemas::{
    ComparisonMark, Consistency, ContentHash, ErrorCode, Failure, Finding, FindingsReport,
    GeneratedReport, Generation, Label, Labels, PredictedFinding, ReportLabels, RunSpec, Stage,
    StudyRecord, StudyStatus,
};
use serde::de::DeserializeOwned;

use crate::archive::StudyEntry;
use crate::run::pipeline::{OutputKeys, StudyFacts};

/// Makes the record of a study that has reported all it can.
///
/// # Errors
/// When the store does not answer. An output that is gone or damaged makes a failed study instead.
pub(crate) async fn finished(
    run: &RunSpec,
    facts: &StudyFacts,
    objects: &dyn Objects,
) -> Result<StudyRecord, ObjectError> {
    let keys = OutputKeys::of_facts(run, facts);
    let (findings, report, labels) = join3(
        load::<FindingsReport>(facts, &keys, Stage::Findings, objects),
        load::<GeneratedReport>(facts, &keys, Stage::Language, objects),
        load::<ReportLabels>(facts, &keys, Stage::Scoring, objects),
    )
    .await;
    let (findings, report, labels) = (findings?, report?, labels?);
    let lost = [
        (Stage::Findings, findings.lost()),
        (Stage::Language, report.lost()),
        (Stage::Scoring, labels.lost()),
    ];
    let lost = lost
        .into_iter()
        .find_map(|(stage, failure)| Some((stage, failure?)));
    let failure = facts
        .failure()
        .or(lost)
        .map(|(stage, failure)| (stage, failure.clone()));
    let (findings, report, labels) = (findings.loaded(), report.loaded(), labels.loaded());

    let spec = facts.spec.clone();
    let mut record = StudyRecord {
        input: Some(spec.input),
        given: spec.given,
        reference: spec.reference,
        generation: generation_of(run),
        other_files: spec.other_files,
        indication: spec.indication,
        split: spec.split,
        timings: facts
            .results
            .iter()
            .map(|(stage, result)| (*stage, result.timings.clone()))
            .collect(),
        ..empty(spec.study, spec.file, run.bundle.clone())
    };
    if let Some((stage, failure)) = failure {
        record.status = StudyStatus::Failed;
        record.failed_stage = Some(stage);
        record.error = Some(failure);
    }
    let mut lead = 0;
    if let Some(report) = report {
        if run.generation.samples.is_some()
            && report.consistency.is_none()
            && record.error.is_none()
        {
            record.status = StudyStatus::Failed;
            record.failed_stage = Some(Stage::Language);
            record.error = Some(unsampled());
        }
        let (before, text) = report.text.split_at(lead_of(&report.text));
        lead = before.chars().count() as u32;
        record.report_lead = before.to_owned();
        record.report = Some(text.to_owned());
        record.report_complete = Some(report.complete);
        record.report_tokens = Some(report.tokens);
        record.consistency = report.consistency.map(|consistency| Consistency {
            samples: consistency.samples.iter().map(|text| shown(text)).collect(),
            ..consistency
        });
    }
    if let (Some(findings), Some(labels)) = (&findings, &labels) {
        record.disagreement = Some(disagreement(&findings.findings, &labels.report));
    }
    if let Some(findings) = findings {
        record.findings = Some(findings.findings);
        record.findings_text = Some(findings.text);
        record.warnings = findings.warnings;
        record.input_gate = findings.input_gate;
    }
    if let Some(labels) = labels {
        record.report_labels = Some(labels.report);
        let marks = labels.comparisons;
        record.comparisons =
            marks.map(|marks| marks.into_iter().map(|mark| moved(mark, lead)).collect());
        record.reference_labels = labels.reference;
    }
    Ok(record)
}

/// Bytes of white space in front of a text that a model has written: the blank of its first word, which is no part of what it says.
fn lead_of(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// A text of a model as it is shown.
fn shown(text: &str) -> String {
    text[lead_of(text)..].to_owned()
}

/// A mark in a text without so many characters of white space in front.
fn moved(mark: ComparisonMark, lead: u32) -> ComparisonMark {
    let less = |range: [u32; 2]| range.map(|place| place.saturating_sub(lead));
    ComparisonMark {
        range: less(mark.range),
        words_range: less(mark.words_range),
        ..mark
    }
}

/// The failure of a study whose report has no samples though they were asked for.
fn unsampled() -> Failure {
    let message = "the report has no samples: a worker of a release without --consistency wrote it. Use workers of one release, \
                   delete the report's object and run with --retry-failed";
    Failure::new(ErrorCode::SchemaVersion, message)
}

/// The settings of decoding, of a run that decodes.
fn generation_of(run: &RunSpec) -> Option<Generation> {
    let decodes = run.stages.iter().any(|stage| stage == Stage::Language);
    decodes.then(|| run.generation.clone())
}

/// Makes the record of a study whose image never reached a stage.
pub(crate) fn failed(entry: StudyEntry, failure: Failure, bundle: &ContentHash) -> StudyRecord {
    StudyRecord {
        status: StudyStatus::Failed,
        error: Some(failure),
        other_files: entry.other_files,
        indication: entry.indication,
        split: entry.split,
        ..empty(entry.study, entry.file, bundle.clone())
    }
}

/// Writes the line of a record, without its end.
pub(crate) fn line(record: &StudyRecord) -> String {
    serde_json::to_string(record).expect("a record has string keys only")
}

/// A stage's output, as far as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StageOutputState<T> {
    /// The stage is done, and this is its output.
    Loaded(T),
    /// The stage is not done: it failed, was not asked for, or has not run yet.
    NotComputed,
    /// The stage is done, and its output is gone, damaged or refused.
    Lost(Failure),
}

impl<T> StageOutputState<T> {
    fn loaded(self) -> Option<T> {
        match self {
            Self::Loaded(output) => Some(output),
            Self::NotComputed | Self::Lost(_) => None,
        }
    }

    fn lost(&self) -> Option<&Failure> {
        match self {
            Self::Lost(failure) => Some(failure),
            Self::Loaded(_) | Self::NotComputed => None,
        }
    }
}

/// The end of a stage for a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StageEnd {
    /// The output was computed.
    Done,
    /// The output was found in the store.
    Reused,
    /// The stage failed.
    Failed,
}

/// Says how each stage that reported ended. Embedding leaves nothing in a record; as the first stage it failed only where
/// the record says so.
pub(crate) fn stage_ends(record: &StudyRecord) -> impl Iterator<Item = (Stage, StageEnd)> + '_ {
    record.timings.iter().map(|(stage, timings)| {
        let failed = match stage {
            Stage::Embedding => record.failed_stage == Some(Stage::Embedding),
            Stage::Findings => record.findings.is_none(),
            Stage::Language => record.report.is_none(),
            Stage::Scoring => record.report_labels.is_none(),
        };
        let end = match (failed, timings.reused) {
            (true, _) => StageEnd::Failed,
            (false, true) => StageEnd::Reused,
            (false, false) => StageEnd::Done,
        };
        (*stage, end)
    })
}

fn empty(study: radialog_schemas::StudyId, file: String, bundle: ContentHash) -> StudyRecord {
    StudyRecord {
        study,
        file,
        input: None,
        status: StudyStatus::Done,
        error: None,
        failed_stage: None,
        given: BTreeMap::new(),
        findings: None,
        warnings: Vec::new(),
        input_gate: None,
        findings_text: None,
        report: None,
        report_lead: String::new(),
        report_complete: None,
        report_tokens: None,
        consistency: None,
        report_labels: None,
        comparisons: None,
        reference_labels: None,
        reference: None,
        disagreement: None,
        other_files: Vec::new(),
        indication: None,
        split: None,
        bundle,
        generation: None,
        timings: BTreeMap::new(),
    }
}

/// Finds the findings that only one of classifier and report states. As in the published evaluation, a report states what
/// CheXbert labels positive; blank, negative and uncertain do not count. Of what the classifier does not assess nobody knows.
fn disagreement(findings: &[PredictedFinding], report: &Labels) -> Vec<Finding> {
    let stated = |finding: Finding| report.get(&finding) == Some(&Label::Positive);
    findings
        .iter()
        .filter(|p| p.is_assessed() && p.present != stated(p.finding))
        .map(|p| p.finding)
        .collect()
}

/// Loads a stage's output.
///
/// # Errors
/// When the store does not answer.
pub(crate) async fn load<T: DeserializeOwned>(
    facts: &StudyFacts,
    keys: &OutputKeys,
    stage: Stage,
    objects: &dyn Objects,
) -> Result<StageOutputState<T>, ObjectError> {
    if !facts.is_done(stage) {
        return Ok(StageOutputState::NotComputed);
    }
    let key = keys.output(stage);
    let content = match objects.get(key).await {
        Ok(content) => content,
        Err(error @ (ObjectError::NotFound(_) | ObjectError::Refused { .. })) => {
            return Ok(StageOutputState::Lost(error.into()));
        }
        Err(error) => return Err(error),
    };
    Ok(match serde_json::from_slice(&content) {
        Ok(output) => StageOutputState::Loaded(output),
        Err(error) => StageOutputState::Lost(Failure::new(
            ErrorCode::ObjectCorrupt,
            format!("object '{key}' is damaged: {error}"),
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_shown_without_the_blank_in_front_and_marks_move_with_it() {
        for (text, lead, shown_text) in [
            (" A stable.", 1, "A stable."),
            ("A.", 0, "A."),
            (" ", 1, ""),
        ] {
            assert_eq!((lead_of(text), shown(text).as_str()), (lead, shown_text));
        }
        let mark = ComparisonMark {
            sentence: 0,
            range: [1, 10],
            words: "stable".into(),
            words_range: [3, 9],
        };
        let moved = moved(mark, 1);
        assert_eq!((moved.range, moved.words_range), ([0, 9], [2, 8]));
    }

    #[test]
    fn a_finding_is_disputed_when_only_one_side_states_it() {
        let predicted = |finding, present| PredictedFinding {
            finding,
            probability: Some(0.5),
            present,
            threshold: None,
        };
        let unknown = |finding| PredictedFinding {
            finding,
            probability: None,
            present: false,
            threshold: None,
        };
        let findings = [
            predicted(Finding::Edema, true),
            predicted(Finding::Pneumonia, true),
            predicted(Finding::Fracture, false),
            predicted(Finding::Atelectasis, false),
            predicted(Finding::Cardiomegaly, true),
            unknown(Finding::SupportDevices),
        ];
        let report = Labels::from([
            (Finding::Edema, Label::Positive),
            (Finding::Pneumonia, Label::Uncertain),
            (Finding::Fracture, Label::Positive),
            (Finding::Atelectasis, Label::Negative),
            (Finding::SupportDevices, Label::Positive),
        ]);
        let disputed = [Finding::Pneumonia, Finding::Fracture, Finding::Cardiomegaly];
        assert_eq!(disagreement(&findings, &report), disputed);
    }
}
