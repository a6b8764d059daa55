//! How many patients the scores of each finding rest on.

use radialog_schemas::Finding;

use super::{MetricGroup, StudyScores};
use crate::evaluation::patients::PatientsByFinding;

/// The patients who have a finding, and those who have it not, by what the scores of reports and of images are beside.
#[derive(Clone, Debug, Default)]
pub struct ScoredPatients {
    reports: PatientsByFinding,
    findings: PatientsByFinding,
}

impl ScoredPatients {
    /// Counts a study of this patient.
    pub(super) fn add(&mut self, study: &StudyScores, patient: u32) {
        for (answers, patients) in [
            (&study.report, &mut self.reports),
            (&study.findings, &mut self.findings),
        ] {
            if let Some((truth, _)) = answers {
                patients.add(truth, patient);
            }
        }
    }

    /// As [`PatientsByFinding::fewest`], of what a score of this group is beside.
    pub(super) fn fewest(&self, group: MetricGroup, finding: Finding) -> usize {
        self.of(group).fewest(finding)
    }

    /// As [`PatientsByFinding::with`], of what a score of this group is beside.
    pub(super) fn with(&self, group: MetricGroup, finding: Finding) -> usize {
        self.of(group).with(finding)
    }

    /// Names the findings of which there is too little for a score of this group that means much.
    pub fn few_words(&self, group: MetricGroup) -> Option<String> {
        self.of(group).few_words()
    }

    fn of(&self, group: MetricGroup) -> &PatientsByFinding {
        match group {
            MetricGroup::Findings => &self.findings,
            _ => &self.reports,
        }
    }
}
