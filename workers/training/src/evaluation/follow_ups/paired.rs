//! Two sets of answers about the same studies, and how sure their scores are. What is kept of a study is its truth, both answers and
//! a number for its patient, about 60 bytes.

use radialog_schemas::Finding;
use serde::Serialize;

use super::{CLASSES, FindingCounts, FindingScores, Said, Truth};
use crate::evaluation::bootstrap::{Bootstrap, Estimate, Resampling};
use crate::evaluation::clinical::Rates;
use crate::evaluation::patients::PatientsByFinding;
use crate::evaluation::text_scores::protocol::Better;

/// A name, and the rate that it is of.
type Rate = (&'static str, fn(&Rates) -> f64);
/// The scores of each finding.
const RATES: [Rate; 3] = [
    ("precision", |rates| rates.precision),
    ("recall", |rates| rates.recall),
    ("F1", |rates| rates.f1),
];

/// Answers by two sides.
#[derive(Clone, Debug, Default)]
pub struct PairedAnswers {
    studies: Vec<(Truth, [Said; 2])>,
    patients: Vec<u32>,
}

/// One score of both sides with 95 % intervals over patients.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairedEstimate {
    /// The score.
    pub name: String,
    /// Which values are good, of both sides and of the difference.
    pub better: Better,
    /// The one finding that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
    /// The first side.
    pub first: Estimate,
    /// The second side.
    pub second: Estimate,
    /// The second less the first, over the same resamples.
    pub difference: Estimate,
}

impl PairedEstimate {
    /// Puts the estimates of both sides and of the difference together; none where a score is not defined on one of them.
    pub(super) fn of(
        name: &str,
        finding: Option<Finding>,
        [first, second, difference]: [Option<Estimate>; 3],
    ) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            // Of whatever is scored here, more is better.
            better: Better::Higher,
            finding,
            first: first?,
            second: second?,
            difference: difference?,
        })
    }
}

impl PairedAnswers {
    /// Adds a study of this patient ([`Patients::number`](crate::evaluation::patients::Patients::number)).
    pub fn add(&mut self, truth: Truth, first: Said, second: Said, patient: u32) {
        self.studies.push((truth, [first, second]));
        self.patients.push(patient);
    }

    /// Computes the scores of one side, 0 or 1.
    pub fn scores(&self, side: usize) -> FindingScores {
        self.counts(side, &vec![1; self.studies.len()]).scores()
    }

    /// Names the findings of which there is too little for a score that means much.
    pub fn few_words(&self) -> Option<String> {
        self.by_finding().few_words()
    }

    fn by_finding(&self) -> PatientsByFinding {
        let mut by_finding = PatientsByFinding::default();
        for ((truth, _), patient) in self.studies.iter().zip(&self.patients) {
            by_finding.add(truth, *patient);
        }
        by_finding
    }

    /// Computes every score with its intervals; one that is not defined is left out, as those of a finding that no study has.
    /// One of a finding that a single patient has rests on that one, and is without intervals.
    pub fn estimates(&self, resampling: Resampling) -> Vec<PairedEstimate> {
        if self.studies.is_empty() {
            return Vec::new();
        }
        let of = |weights: &[u32]| {
            let [first, second] = [0, 1].map(|side| values(&self.counts(side, weights).scores()));
            let differences = first
                .iter()
                .zip(&second)
                .map(|(first, second)| second - first);
            let differences: Vec<f64> = differences.collect();
            [first, second, differences].concat()
        };
        let estimates = Bootstrap::of_streams(&self.patients, resampling).estimates(of);
        let names: Vec<_> = names().collect();
        let at = |place: usize| [0, 1, 2].map(|part| estimates[part * names.len() + place]);
        let counts = self.counts(0, &vec![1; self.studies.len()]);
        let patients = self.by_finding();
        let paired = |(place, (name, finding)): (usize, &(&str, Option<Finding>))| {
            let is_there = finding.is_none_or(|finding| counts.positives(finding) > 0);
            let rests_on_one = finding.is_some_and(|finding| patients.with(finding) == 1);
            let estimates = match rests_on_one {
                true => at(place).map(|of| of.map(Estimate::without_interval)),
                false => at(place),
            };
            PairedEstimate::of(name, *finding, estimates).filter(|_| is_there)
        };
        names.iter().enumerate().filter_map(paired).collect()
    }

    fn counts(&self, side: usize, weights: &[u32]) -> FindingCounts {
        let mut counts = FindingCounts::default();
        for ((truth, said), weight) in self.studies.iter().zip(weights) {
            (0..*weight).for_each(|_| counts.add(truth, &said[side]));
        }
        counts
    }
}

/// The names of the scores, in the order of [`values`].
fn names() -> impl Iterator<Item = (&'static str, Option<Finding>)> {
    let whole = FindingScores::NAMES.map(|name| (name, None)).into_iter();
    let each = Finding::ALL.into_iter();
    whole.chain(each.flat_map(|finding| RATES.map(|(name, _)| (name, Some(finding)))))
}

/// The scores; NaN where one is not defined.
fn values(scores: &FindingScores) -> Vec<f64> {
    let whole = FindingScores::NAMES.len();
    let mut values = vec![f64::NAN; whole + CLASSES * RATES.len()];
    if scores.studies > 0 {
        values[..whole].copy_from_slice(&scores.values());
    }
    for (finding, rates) in &scores.labels {
        let place = whole + *finding as usize * RATES.len();
        for (value, (_, of)) in values[place..].iter_mut().zip(RATES) {
            *value = of(rates);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thirty studies of so many patients; both sides say the same.
    fn answers(patients: u32) -> PairedAnswers {
        let mut answers = PairedAnswers::default();
        for study in 0..30_usize {
            let truth: Said = std::array::from_fn(|class| (study + class).is_multiple_of(3));
            let said = std::array::from_fn(|class| (study * class).is_multiple_of(2));
            let mut truth = truth.map(Some);
            (truth[1], truth[2]) = (None, Some(false));
            answers.add(truth, said, said, study as u32 * patients / 30);
        }
        answers
    }

    #[test]
    fn every_score_has_an_interval_that_holds_it_and_equal_sides_do_not_differ() {
        let answers = answers(30);
        let estimates = answers.estimates(Resampling::default());
        assert_eq!(estimates, answers.estimates(Resampling::default()));
        // Of the second finding nothing is known, and nobody has the third, of which there is no AUC then, nor of all.
        let whole = FindingScores::NAMES.len() - 1;
        assert_eq!(estimates.len(), whole + RATES.len() * (CLASSES - 2));
        assert_eq!(estimates[0].first.value, answers.scores(0).macro_f1);
        for of in &estimates {
            assert!(
                of.first.low <= of.first.value && of.first.value <= of.first.high,
                "{of:?}"
            );
            assert_eq!(of.first, of.second);
            assert_eq!((of.difference.low, of.difference.high), (0.0, 0.0));
        }
        let nobody = PairedAnswers::default().estimates(Resampling::default());
        assert!(nobody.is_empty());
    }

    #[test]
    fn what_one_patient_has_has_no_interval_and_is_named() {
        let mut paired = answers(30);
        for (truth, _) in &mut paired.studies[1..] {
            truth[3] = Some(false);
        }
        let finding = Finding::ALL[3];
        let estimates = paired.estimates(Resampling::default());
        let of_finding: Vec<&PairedEstimate> = estimates
            .iter()
            .filter(|of| of.finding == Some(finding))
            .collect();
        assert_eq!(of_finding.len(), RATES.len());
        for of in of_finding {
            assert!(of.first.value.is_finite() && of.first.interval().is_none());
            assert!(of.difference.interval().is_none());
        }
        let words = paired.few_words().unwrap();
        let named = format!("without, {} (1): ", finding.name());
        assert!(words.contains(&named), "{words}");
        assert_eq!(answers(30).few_words(), None);
    }

    #[test]
    fn who_has_a_finding_decides_on_its_interval_whoever_has_it_not() {
        let mut paired = answers(30);
        // One patient has the first, and nobody is known not to; all but one have the second.
        for (study, (truth, _)) in paired.studies.iter_mut().enumerate() {
            truth[3] = (study == 0).then_some(true);
            truth[4] = Some(study > 0);
        }
        let estimates = paired.estimates(Resampling::default());
        for (class, has_interval) in [(3, false), (4, true)] {
            let finding = Finding::ALL[class];
            let of_finding = estimates.iter().filter(|of| of.finding == Some(finding));
            let intervals: Vec<bool> = of_finding
                .map(|of| of.first.interval().is_some() && of.difference.interval().is_some())
                .collect();
            assert_eq!(intervals, [has_interval; RATES.len()], "{finding}");
        }
        let words = paired.few_words().unwrap();
        let [one, all_but_one] = [3, 4].map(|class| Finding::ALL[class].name());
        let named = format!("without, {one} (1), {all_but_one} (1): ");
        assert!(words.contains(&named), "{words}");
    }

    #[test]
    fn the_studies_of_a_patient_are_drawn_together() {
        let one = answers(1).estimates(Resampling::default());
        let accuracy = one.iter().find(|of| of.name == "accuracy").unwrap().first;
        // Of one patient, nothing is known of the spread.
        assert_eq!(accuracy.interval(), None);
        let width = |patients| {
            let estimates = answers(patients).estimates(Resampling::default());
            let accuracy = estimates.iter().find(|of| of.name == "accuracy").unwrap();
            accuracy.first.high - accuracy.first.low
        };
        assert!(width(2) > 0.0 && width(30) > 0.0);
    }
}
