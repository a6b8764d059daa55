//! Two sets of answers about the same studies, and how sure their scores are. What is kept of a study is its truth and both
//! answers, about 60 bytes.

use serde::Serialize;

use super::{FindingCounts, FindingScores, Said, Truth};
use crate::evaluation::quality::bootstrap::{Bootstrap, Estimate};

/// The seed of the resamples.
const SEED: u64 = 42;
/// A name, and the score that it is of.
type Score = (&'static str, fn(&FindingScores) -> f64);
/// The scores that have intervals.
const SCORES: [Score; 5] = [
    ("macro F1", |scores| scores.macro_f1),
    ("macro precision", |scores| scores.macro_precision),
    ("macro recall", |scores| scores.macro_recall),
    ("sample F1", |scores| scores.sample_f1),
    ("accuracy", |scores| scores.accuracy),
];

/// Answers by two sides.
#[derive(Clone, Debug, Default)]
pub struct PairedAnswers(Vec<(Truth, [Said; 2])>);

/// One score of both sides with 95 % intervals: a percentile bootstrap of 1,000 resamples over studies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairedEstimate {
    /// The score; higher is better.
    pub name: &'static str,
    /// The first side.
    pub first: Estimate,
    /// The second side.
    pub second: Estimate,
    /// The second less the first, over the same resamples.
    pub difference: Estimate,
}

impl PairedAnswers {
    /// Adds a study.
    pub fn add(&mut self, truth: Truth, first: Said, second: Said) {
        self.0.push((truth, [first, second]));
    }

    /// Computes the scores of one side, 0 or 1.
    pub fn scores(&self, side: usize) -> FindingScores {
        self.counts(side, 0..self.0.len()).scores()
    }

    /// Computes intervals of the scores; none without a study.
    pub fn estimates(&self) -> Vec<PairedEstimate> {
        let studies: Vec<usize> = (0..self.0.len()).collect();
        let resamples = Bootstrap::new(&studies, SEED, "follow-ups");
        let scores = |side: usize, places: &[usize]| {
            let places = places.iter().copied();
            (!studies.is_empty()).then(|| self.counts(side, places).scores())
        };
        let estimate = |(name, of): Score| {
            let side = |side| resamples.measure(|places| scores(side, places).as_ref().map(of));
            let difference =
                |places: &[usize]| Some(of(&scores(1, places)?) - of(&scores(0, places)?));
            Some(PairedEstimate {
                name,
                first: side(0)?,
                second: side(1)?,
                difference: resamples.measure(difference)?,
            })
        };
        SCORES.into_iter().filter_map(estimate).collect()
    }

    fn counts(&self, side: usize, places: impl Iterator<Item = usize>) -> FindingCounts {
        let mut counts = FindingCounts::default();
        for place in places {
            let (truth, said) = &self.0[place];
            counts.add(truth, &said[side]);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_its_value_and_equal_sides_do_not_differ() {
        let mut answers = PairedAnswers::default();
        for study in 0..30_usize {
            let truth = std::array::from_fn(|class| (study + class).is_multiple_of(3));
            let said = std::array::from_fn(|class| (study * class).is_multiple_of(2));
            answers.add(truth.map(Some), said, said);
        }
        let estimates = answers.estimates();
        assert_eq!(estimates, answers.estimates());
        assert_eq!(estimates.len(), 5);
        for of in estimates {
            assert!(
                of.first.low <= of.first.value && of.first.value <= of.first.high,
                "{of:?}"
            );
            assert_eq!(of.first, of.second);
            assert_eq!((of.difference.low, of.difference.high), (0.0, 0.0));
        }
        assert!(PairedAnswers::default().estimates().is_empty());
    }
}
