//! Errors of a report's labels weighed by what they could do to a patient: a missed pneumothorax is not a missed device. Lower is
//! better.
//!
//! The weights are a convention of this project and no published or validated measure: 4 where help is a matter of minutes to
//! hours, 3 where treatment or a further examination depends on it, 2 where it changes the assessment, 1 where it rarely changes
//! what is done. A false alarm counts half of a miss, since somebody looks again. *No Finding* follows from the others and does
//! not count. Print the table beside the score: [`WEIGHTS`].

use radialog_schemas::Finding;
use serde::Serialize;

/// Number of findings.
const CLASSES: usize = Finding::ALL.len();
/// What a false alarm counts against a miss.
const FALSE_ALARM: f64 = 0.5;

/// What an error about a finding counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ErrorWeight {
    /// The finding.
    pub finding: Finding,
    /// Where the report does not have it.
    pub missed: f64,
    /// Where only the report has it.
    pub false_alarm: f64,
}

/// The table, in the published order of the findings.
pub const WEIGHTS: [ErrorWeight; CLASSES] = [
    weight(Finding::NoFinding, 0.0),
    weight(Finding::EnlargedCardiomediastinum, 3.0),
    weight(Finding::Cardiomegaly, 2.0),
    weight(Finding::LungOpacity, 2.0),
    weight(Finding::LungLesion, 3.0),
    weight(Finding::Edema, 3.0),
    weight(Finding::Consolidation, 3.0),
    weight(Finding::Pneumonia, 3.0),
    weight(Finding::Atelectasis, 1.0),
    weight(Finding::Pneumothorax, 4.0),
    weight(Finding::PleuralEffusion, 2.0),
    weight(Finding::PleuralOther, 1.0),
    weight(Finding::Fracture, 2.0),
    weight(Finding::SupportDevices, 1.0),
];

const fn weight(finding: Finding, missed: f64) -> ErrorWeight {
    ErrorWeight {
        finding,
        missed,
        false_alarm: missed * FALSE_ALARM,
    }
}

/// The weighed errors of one report or of many together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SeverityErrors {
    /// The number of reports.
    pub reports: u64,
    /// Findings that the reports miss.
    pub missed: u64,
    /// Findings that only the reports have.
    pub false_alarms: u64,
    /// The sum of the errors' weights.
    pub weight: f64,
}

impl SeverityErrors {
    /// Weighs the errors of one report, in the published order of findings; what is not known is no error.
    pub fn of(truth: &[Option<bool>; CLASSES], said: &[bool; CLASSES]) -> Self {
        let mut errors = Self {
            reports: 1,
            ..Self::default()
        };
        for (weight, (truth, said)) in WEIGHTS.iter().zip(truth.iter().zip(said)) {
            // *No Finding* is no finding to miss.
            if weight.missed == 0.0 {
                continue;
            }
            match (truth, said) {
                (Some(true), false) => {
                    errors.missed += 1;
                    errors.weight += weight.missed;
                }
                (Some(false), true) => {
                    errors.false_alarms += 1;
                    errors.weight += weight.false_alarm;
                }
                _ => {}
            }
        }
        errors
    }

    /// Adds the errors of other reports.
    pub fn add(&mut self, other: &Self) {
        self.reports += other.reports;
        self.missed += other.missed;
        self.false_alarms += other.false_alarms;
        self.weight += other.weight;
    }

    /// The mean weight of a report's errors, from 0 up; 0 where there is no report. Lower is better.
    pub fn mean(&self) -> f64 {
        self.weight / self.reports.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_published_order_and_false_alarms_count_half() {
        for (weight, finding) in WEIGHTS.iter().zip(Finding::ALL) {
            assert_eq!(weight.finding, finding);
            assert_eq!(weight.false_alarm * 2.0, weight.missed);
        }
    }

    #[test]
    fn errors_are_summed_by_weight_and_what_is_unknown_is_none() {
        let at = |finding: Finding| finding as usize;
        let (mut truth, mut said) = ([Some(false); CLASSES], [false; CLASSES]);
        truth[at(Finding::Pneumothorax)] = Some(true);
        truth[at(Finding::Edema)] = None;
        said[at(Finding::Edema)] = true;
        said[at(Finding::Atelectasis)] = true;
        said[at(Finding::NoFinding)] = true;
        let mut errors = SeverityErrors::of(&truth, &said);
        assert_eq!((errors.missed, errors.false_alarms), (1, 1));
        assert_eq!(errors.weight, 4.5);
        errors.add(&SeverityErrors::of(&truth, &truth.map(|t| t == Some(true))));
        assert_eq!(errors.mean(), 2.25);
    }
}
