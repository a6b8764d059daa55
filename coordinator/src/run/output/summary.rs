//! `summary.json`: what a run came to, counted over `results.jsonl`.

use std::collections::BTreeMap;

use radialog_schemas::{
    ContentHash, Failure, Finding, Label, RunId, Stage, StudyId, StudyRecord, StudyStatus,
};
use serde::{Deserialize, Serialize};

use crate::archive::EntryProblem;
use crate::run::study_record::{StageEnd, stage_ends};

/// The result of a run in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The id of the run.
    pub run: RunId,
    /// The archive.
    pub input: String,
    /// Hash of the bundle.
    pub bundle: ContentHash,
    /// True when it was stopped before the end of the archive; run again to resume.
    pub interrupted: bool,
    /// Studies of the archive with a line in `results.jsonl`.
    pub studies: u64,
    /// Those of them that have everything that was asked for.
    pub done: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Failed studies by error code.
    pub failed_by_code: BTreeMap<String, u64>,
    /// The first failed studies, in the order of the archive.
    #[serde(default)]
    pub failed_studies: Vec<FailedStudy>,
    /// Studies with warnings about their image.
    #[serde(default)]
    pub warned: u64,
    /// Those of them whose image does not look like a frontal chest X-ray.
    #[serde(default)]
    pub not_frontal: u64,
    /// Done studies of which every output was in the store already.
    pub reused: u64,
    /// The last session; a run that was resumed has several.
    pub session: SessionSummary,
    /// The work of each stage.
    pub stages: BTreeMap<Stage, StageSummary>,
    /// Share of the studies with findings in which the classifier sees each that it assesses, 0 to 1.
    pub prevalence: BTreeMap<Finding, f64>,
    /// Share of the scored studies whose report and classifier differ in at least one finding, 0 to 1.
    pub disagreement_rate: Option<f64>,
    /// Studies in which they differ, by finding.
    pub disagreements: BTreeMap<Finding, u64>,
    /// CheXbert's labels of our reports.
    pub report_labels: BTreeMap<Finding, LabelHistogram>,
    /// CheXbert's labels of the references.
    pub reference_labels: BTreeMap<Finding, LabelHistogram>,
    /// The number of entries of the archive that could not become a study.
    pub problem_count: u64,
    /// Those of them by which studies may be missing: parts of the archive that could not be read, and entries with the id of an
    /// earlier one.
    #[serde(default)]
    pub unread_count: u64,
    /// The first of them.
    pub problems: Vec<EntryProblem>,
    /// Studies of earlier sessions that could not be compared with the archive as it is now.
    #[serde(default)]
    pub not_compared: NotCompared,
    /// Lines of `results.jsonl` whose studies the archive, or as much of it as the run takes, does not name any more: they are in no
    /// other number here, and have no row in `results.csv`. While parts of the archive that may
    /// have them are unread, nobody knows, and they count.
    #[serde(default)]
    pub not_in_archive: u64,
}

/// Studies whose image or row cannot be looked at now, so that nobody knows whether it is another: what was done for them stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NotCompared {
    /// The number of them.
    pub studies: u64,
    /// Their number by the code of the reason.
    pub by_code: BTreeMap<String, u64>,
    /// Some of them, at most 100, each with its reason.
    pub named: Vec<FailedStudy>,
}

/// A study that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedStudy {
    /// The study.
    #[serde(rename = "study_id", alias = "study")]
    pub study: StudyId,
    /// Code and reason, where its line has them.
    pub error: Option<Failure>,
}

/// Failed studies that are named; `results.jsonl` has all.
const NAMED: usize = 100;

impl RunSummary {
    /// Whether all of the archive was looked at: else studies may be missing, or be of other images than those that are there now.
    pub fn saw_everything(&self) -> bool {
        self.unread_count == 0 && self.not_compared.studies == 0
    }
}

impl NotCompared {
    pub(crate) fn add(&mut self, study: StudyId, failure: Failure) {
        self.studies += 1;
        *self.by_code.entry(failure.code.as_str()).or_default() += 1;
        if self.named.len() < NAMED {
            self.named.push(FailedStudy {
                study,
                error: Some(failure),
            });
        }
    }

    /// Puts those that are named into an order that does not depend on which answered first.
    pub(crate) fn sort(&mut self) {
        self.named
            .sort_by(|a, b| a.study.as_str().cmp(b.study.as_str()));
    }
}

/// The work of one process over the archive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// Studies that had their line before it.
    pub resumed: u64,
    /// Studies that had lost theirs, since the archive has another image or row for them now, or one that an option allows now.
    #[serde(default)]
    pub changed: u64,
    /// Studies that got their line in it.
    pub studies: u64,
    /// Its length in seconds.
    pub seconds: f64,
    /// Studies a second: `studies` divided by `seconds`.
    pub studies_per_second: f64,
}

/// The work of one stage. Times are sums over its tasks, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageSummary {
    /// The number of outputs that were computed.
    pub done: u64,
    /// The number of outputs that were found in the store.
    pub reused: u64,
    /// The number of tasks that failed.
    pub failed: u64,
    /// The time in the queue.
    pub queue_ms: f64,
    /// The time of fetching and decoding inputs.
    pub fetch_ms: f64,
    /// The time in the model.
    pub model_ms: f64,
    /// The time of storing outputs.
    pub store_ms: f64,
}

/// The numbers of times that CheXbert gave each label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelHistogram {
    /// Reports that do not mention the finding.
    pub blank: u64,
    /// Reports in which the finding is present.
    pub positive: u64,
    /// Reports that deny the finding.
    pub negative: u64,
    /// Reports in which the finding is possible.
    pub uncertain: u64,
}

/// The counts that become shares at the end.
pub(super) struct SummaryCounts {
    summary: RunSummary,
    with_findings: u64,
    present: BTreeMap<Finding, u64>,
    scored: u64,
    disputed: u64,
}

impl SummaryCounts {
    pub(super) fn new(run: RunId, input: String, bundle: ContentHash) -> Self {
        let summary = RunSummary {
            run,
            input,
            bundle,
            interrupted: false,
            studies: 0,
            done: 0,
            failed: 0,
            failed_by_code: BTreeMap::new(),
            failed_studies: Vec::new(),
            warned: 0,
            not_frontal: 0,
            reused: 0,
            session: SessionSummary::default(),
            stages: BTreeMap::new(),
            prevalence: BTreeMap::new(),
            disagreement_rate: None,
            disagreements: BTreeMap::new(),
            report_labels: BTreeMap::new(),
            reference_labels: BTreeMap::new(),
            problem_count: 0,
            unread_count: 0,
            problems: Vec::new(),
            not_compared: NotCompared::default(),
            not_in_archive: 0,
        };
        Self {
            summary,
            with_findings: 0,
            present: BTreeMap::new(),
            scored: 0,
            disputed: 0,
        }
    }

    pub(super) fn add(&mut self, record: &StudyRecord) {
        let summary = &mut self.summary;
        summary.studies += 1;
        match record.status {
            StudyStatus::Done => {
                summary.done += 1;
                summary.reused += u64::from(record.timings.values().all(|timings| timings.reused));
            }
            StudyStatus::Failed => {
                summary.failed += 1;
                let code = record
                    .error
                    .as_ref()
                    .map_or_else(|| "unknown".to_owned(), |error| error.code.as_str());
                *summary.failed_by_code.entry(code).or_default() += 1;
                if summary.failed_studies.len() < NAMED {
                    summary.failed_studies.push(FailedStudy {
                        study: record.study.clone(),
                        error: record.error.clone(),
                    });
                }
            }
        }
        summary.warned += u64::from(!record.warnings.is_empty());
        let verdict = record.input_gate.as_ref();
        summary.not_frontal += u64::from(verdict.is_some_and(|verdict| !verdict.passed));
        for (stage, end) in stage_ends(record) {
            let timings = &record.timings[&stage];
            let total = summary.stages.entry(stage).or_default();
            match end {
                StageEnd::Done => total.done += 1,
                StageEnd::Reused => total.reused += 1,
                StageEnd::Failed => total.failed += 1,
            }
            total.queue_ms += timings.queue_ms;
            total.fetch_ms += timings.fetch_ms;
            total.model_ms += timings.model_ms;
            total.store_ms += timings.store_ms;
        }
        self.with_findings += u64::from(record.findings.is_some());
        let assessed = record.findings.iter().flatten();
        for predicted in assessed.filter(|predicted| predicted.is_assessed()) {
            *self.present.entry(predicted.finding).or_default() += u64::from(predicted.present);
        }
        if let Some(disputed) = &record.disagreement {
            self.scored += 1;
            self.disputed += u64::from(!disputed.is_empty());
            for finding in disputed {
                *summary.disagreements.entry(*finding).or_default() += 1;
            }
        }
        count(&mut summary.report_labels, record.report_labels.as_ref());
        count(
            &mut summary.reference_labels,
            record.reference_labels.as_ref(),
        );
    }

    pub(super) fn finish(self) -> RunSummary {
        let share = |count: u64, of: u64| count as f64 / of as f64;
        let mut summary = self.summary;
        summary.prevalence = self
            .present
            .into_iter()
            .map(|(finding, count)| (finding, share(count, self.with_findings)))
            .collect();
        summary.disagreement_rate = (self.scored > 0).then(|| share(self.disputed, self.scored));
        summary
    }
}

fn count(
    counts: &mut BTreeMap<Finding, LabelHistogram>,
    labels: Option<&radialog_schemas::Labels>,
) {
    for (finding, label) in labels.into_iter().flatten() {
        let count = counts.entry(*finding).or_default();
        match label {
            Label::Blank => count.blank += 1,
            Label::Positive => count.positive += 1,
            Label::Negative => count.negative += 1,
            Label::Uncertain => count.uncertain += 1,
        }
    }
}
