//! How many patients the scores of a finding rest on: of few of them a score is chance as much as quality, and of one alone all
//! resamples that define it are alike.

use radialog_schemas::Finding;

use super::{CLASSES, MetricGroup, StudyScores};
use crate::evaluation::classification::{FEW, few_words};

/// The patients who have a finding, and those who have it not, by what the scores of reports and of images are beside.
#[derive(Clone, Debug, Default)]
pub struct ScoredPatients {
    reports: PatientsByFinding,
    findings: PatientsByFinding,
}

/// Of each finding, the first patients who have it not, and the first who have it: as many as it takes to know that they are not few.
#[derive(Clone, Debug, Default)]
struct PatientsByFinding([[Vec<u32>; 2]; CLASSES]);

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

    /// The number of patients who have a finding, or of those who have it not, whichever are fewer, up to [`FEW`]; 0 where a finding
    /// has one answer only, or none.
    pub(super) fn fewest(&self, group: MetricGroup, finding: Finding) -> usize {
        self.of(group).fewest(finding)
    }

    /// Names the findings of which there is too little for a score that means much.
    pub fn few_words(&self, group: MetricGroup) -> Option<String> {
        let fewest = Finding::ALL.map(|finding| (finding, self.fewest(group, finding)));
        few_words(fewest.into_iter().filter(|(_, patients)| *patients > 0))
    }

    fn of(&self, group: MetricGroup) -> &PatientsByFinding {
        match group {
            MetricGroup::Findings => &self.findings,
            _ => &self.reports,
        }
    }
}

impl PatientsByFinding {
    fn add(&mut self, truth: &[Option<bool>; CLASSES], patient: u32) {
        for (sides, truth) in self.0.iter_mut().zip(truth) {
            let Some(truth) = truth else { continue };
            let side = &mut sides[usize::from(*truth)];
            if side.len() < FEW && !side.contains(&patient) {
                side.push(patient);
            }
        }
    }

    fn fewest(&self, finding: Finding) -> usize {
        let [without, with] = &self.0[finding as usize];
        without.len().min(with.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patients_are_counted_once_and_few_of_them_are_named() {
        let mut patients = ScoredPatients::default();
        // Edema in four images of two patients, pneumonia in thirty of as many, all else in none.
        for image in 0..60_u32 {
            let truth = Finding::ALL.map(|finding| match finding {
                Finding::Edema => Some(image < 4),
                Finding::Pneumonia => Some(image % 2 == 0),
                _ => Some(false),
            });
            let study = StudyScores {
                findings: Some((truth, [false; CLASSES])),
                ..StudyScores::default()
            };
            patients.add(&study, if image < 4 { image / 2 } else { image });
        }
        let group = MetricGroup::Findings;
        assert_eq!(patients.fewest(group, Finding::Edema), 2);
        assert_eq!(patients.fewest(group, Finding::Pneumonia), FEW);
        assert_eq!(patients.fewest(group, Finding::Fracture), 0);
        let words = patients.few_words(group).unwrap();
        let named = "fewer than 10 patients with, or without, Edema (2): ";
        assert!(words.starts_with(named), "{words}");
        assert_eq!(patients.few_words(MetricGroup::Labels), None);
    }
}
